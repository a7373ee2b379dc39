"""NUL characters, halves of surrogate pairs, huge numbers and bytes that are no UTF-8, in every place that the studio
publishes: no 5xx, and the studio is ready after each."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from core.http.body import read_body
from core.http.shell import send_json
from orchestrator.gateway.paths import PATHS
from tests.fakes.studio import CHAT_ABILITIES, WORKER_KEY, Studio, studio_over
from tests.orchestrator.fuzzing import NOBODY, Made

pytestmark = pytest.mark.slow

NUL, HALF = "a\0b", "a\ud800b"
NUMBERS = ("1e400", str(2**53), str(2**70), "-" + "9" * 40, "9" * 5000, "1.5")


def paths(described: dict[str, Any]) -> Iterator[Made]:
    """Each parameter of each path with what no name is."""
    for path, methods in described["paths"].items():
        if "{" in path:
            for hostile in ("a%00b", "%ff%fe", "%ed%a0%80", "9" * 40, "-1"):
                filled = re.sub(r"\{[^}]*\}", hostile, path)
                for method in methods:
                    yield Made(f"{method} {path}", method.upper(), filled, {}, b"{}")


def queries(described: dict[str, Any]) -> Iterator[Made]:
    """Each parameter of a query."""
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            named = [one["name"] for one in operation.get("parameters", ()) if one["in"] == "query"]
            for name in named:
                for hostile in ("a%00b", "%ff%fe", "9" * 40, "-1", "1e400"):
                    filled = re.sub(r"\{[^}]*\}", "a", path)
                    yield Made(f"{method} {path}?{name}", method.upper(), f"{filled}?{name}={hostile}", {}, b"{}")


def bodies(described: dict[str, Any]) -> Iterator[Made]:
    """A body that fits, each of its values exchanged in turn; and one that is no text at all."""
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            content = operation.get("requestBody", {}).get("content", {})
            schema = content.get("application/json", {}).get("schema")
            if schema is None:
                continue
            filled = re.sub(r"\{[^}]*\}", "a", path)
            fits = _fitting(schema, described)
            for body in (b'{"model": "\xff\xfe"}', b"\xff", *_exchanged(fits)):
                sent = {"content-type": "application/json"}
                yield Made(f"{method} {path}", method.upper(), filled, sent, body)


def _fitting(schema: dict[str, Any], whole: dict[str, Any], depth: int = 0) -> Any:
    """A value of a schema, with all of its fields."""
    if "$ref" in schema:
        schema = whole["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    for choice in ("anyOf", "oneOf", "allOf"):
        if choice in schema:
            return _fitting(schema[choice][0], whole, depth + 1)
    if "enum" in schema:
        return schema["enum"][0]
    if "const" in schema or "default" in schema:
        return schema.get("const", schema.get("default"))
    kind = schema.get("type")
    if kind == "object" or "properties" in schema:
        fields = schema.get("properties", {}) if depth < 5 else {}
        return {name: _fitting(one, whole, depth + 1) for name, one in fields.items()} or {"field": "x"}
    if kind == "array":
        return [_fitting(schema.get("items", {}), whole, depth + 1)]
    given = {"integer": schema.get("minimum", 1), "number": schema.get("minimum", 1), "boolean": False, "null": None}
    return NOBODY if schema.get("format") == "uri" else given.get(str(kind), "x")


def _exchanged(value: Any) -> Iterator[bytes]:
    """The value as JSON, once for each place in it and each hostile value there."""
    places = list(_places(value))
    for place in places:
        for text in (NUL, HALF):
            yield json.dumps(_with(value, place, text)).encode()
            yield json.dumps(_with(value, place, {text: 1})).encode()
        for number in NUMBERS:
            mark = "a number stands here"
            yield json.dumps(_with(value, place, mark)).replace(f'"{mark}"', number).encode()


def _places(value: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if before:
        yield before
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, one in inner:
        yield from _places(one, (*before, name))


def _with(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    if not place:
        return new
    if isinstance(value, dict):
        return {name: _with(one, place[1:], new) if name == place[0] else one for name, one in value.items()}
    return [_with(one, place[1:], new) if at == place[0] else one for at, one in enumerate(value)]


RELAYED: dict[str, Any] = {
    "model": "small",
    "messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}],
    "prompt": "x",
    "input": "x",
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"maximum": 1}}}],
    "metadata": {"n": 1},
    "user": "x",
    "n": 1,
    "max_tokens": 1,
    "seed": 1,
}


_TEXT = {"type": "string", "minLength": 1, "maxLength": 9, "pattern": "x", "default": "x", "examples": ["x"]}
_COUNT = {"type": "integer", "minimum": 1, "maximum": 2, "enum": [1]}
_LIST = {"type": "array", "minItems": 1, "maxItems": 2, "items": {"type": "string", "maxLength": 9}}
RECIPE: dict[str, Any] = {
    "name": "hostile",
    "model": "small",
    "messages": [{"role": "user", "body": "{{ text|truncate(9, true, end='.') }} {% include 'shared/own' %}"}],
    "variables": {
        "type": "object",
        "required": ["text"],
        "additionalProperties": False,
        "properties": {"text": _TEXT, "count": _COUNT, "list": _LIST},
    },
    "sampling": {"temperature": 0.5, "seed": 1, "max_tokens": 9, "stop": ["x"]},
    "includes": {"shared/own": "x"},
    "goldens": [{"variables": {"text": "x"}, "history": [], "messages": [{"role": "user", "content": "x x"}]}],
}


def recipes() -> Iterator[Made]:
    """A whole recipe to save: its schema and its templates are read by libraries of their own."""
    for sent in _exchanged(RECIPE):
        yield Made("post /v1/prompts", "POST", "/v1/prompts", {"content-type": "application/json"}, sent)


def relayed() -> Iterator[Made]:
    """The relay's paths, whose bodies are published loosely; also with a recipe."""
    recipe = {"prompt": {"id": "caption", "version": "production", "variables": {"prompt": "x"}}}
    for path in PATHS:
        for body in (RELAYED, {**RELAYED, **recipe}):
            for sent in (b'{"model": "\xff\xfe"}', b"\xff", *_exchanged(body)):
                yield Made(f"post {path}", "POST", path, {"content-type": "application/json"}, sent)


OWN = {"recipes": recipes, "relayed": relayed}
WORKERS = {"chat": CHAT_ABILITIES, "image": ["images", "image_edits"], "selfie": ["faces"]}
ANSWER = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "yes"}}], "usage": {"total_tokens": 2}}


async def _takes_everything(scope: Scope, receive: Receive, send: Send) -> None:
    """A worker that finds nothing wrong: what an engine would refuse is not the studio's concern."""
    if scope["type"] == "http":
        await read_body(receive)
        await send_json(send, ANSWER)


async def _ill(studio: Studio, key: str, asked: Iterator[Made]) -> tuple[int, list[str]]:
    """How many were sent, and each that was answered with a 5xx, or after which the studio is not ready."""
    sent, ill = 0, []
    for each in asked:
        headers = {**each.headers, "authorization": f"Bearer {key}"}
        answer = await studio.http.request(each.method, each.path, headers=headers, content=each.body)
        ready = await studio.http.get("/readyz")
        sent += 1
        if answer.status_code >= 500 or ready.status_code != 200:
            ill.append(f"{answer.status_code}, ready {ready.status_code}: {each} -> {answer.text[:200]}")
    return sent, ill


@pytest.mark.parametrize("places", ["paths", "queries", "bodies", "recipes", "relayed"])
async def test_nothing_hostile_makes_a_5xx_and_the_studio_stays_ready(
    migrated_dsn: str, tmp_path: Path, places: str
) -> None:
    async with studio_over(migrated_dsn, tmp_path, lease_seconds=600, probe_seconds=3600) as studio:
        url = await studio.serve(_takes_everything)
        for kind, abilities in WORKERS.items():
            models = [{"id": "small", "abilities": abilities}]
            assert (await studio.register(kind, url, kind=kind, models=models)).status_code == 200
        described: dict[str, Any] = (await studio.http.get("/openapi.json")).json()
        published = {"paths": paths, "queries": queries, "bodies": bodies}
        made = list(published[places](described) if places in published else OWN[places]())
        workers = [each for each in made if "/v1/workers" in each.path]
        assert (await studio.post("/v1/prompts", RECIPE)).status_code == 200, "as it is it fits"
        sent, ill = await _ill(studio, studio.key, iter(made))
        ill += (await _ill(studio, WORKER_KEY, iter(workers)))[1]
    assert sent > 50
    assert not ill, "\n".join(ill)
