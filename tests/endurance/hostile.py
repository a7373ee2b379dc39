"""Hostile requests to what a service publishes, as bytes: so that what no client would write can be sent."""

import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from tests.endurance import oddities
from tests.orchestrator.fuzzing import made

FORM_FIELDS = (b"image", b"mask", b"prompt", b"consent", b"messages", b"schema", b"sampling", b"n", b"size", b"model")
CHAT = {"model": "small", "messages": [{"role": "user", "content": "one two"}], "max_tokens": 4}
RELAYED: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        **CHAT,
        "temperature": 0.5,
        "stream": False,
        "n": 1,
        "seed": 1,
        "stop": ["x"],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
        "metadata": {"a": "b"},
    },
    "/v1/completions": {"model": "small", "prompt": "one two", "max_tokens": 4, "n": 1, "logprobs": 1},
    "/v1/responses": {"model": "small", "input": [{"role": "user", "content": "one"}], "max_output_tokens": 4},
    "/v1/embeddings": {"model": "small", "input": ["one"]},
    "/tokenize": {"model": "small", "prompt": "one"},
    "/detokenize": {"model": "small", "tokens": [1, 2]},
}
"""Right bodies of the relay's paths, which publish no schema of their own."""
RECIPES = (
    {"prompt": {"id": "caption", "version": "production", "variables": {"prompt": "an apple"}}, "seed": 1},
    {"prompt": {"id": "chat_conversation"}, "messages": [{"role": "user", "content": "one"}], "max_tokens": 4},
)


@dataclass(frozen=True)
class Request:
    """A request without its key."""

    method: str
    route: str
    target: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes

    def bytes_for(self, key: str) -> bytes:
        head = [b"%s %s HTTP/1.1" % (self.method.encode(), self.target), b"host: studio.test", b"connection: close"]
        head += [b"%s: %s" % pair for pair in (*self.headers, (b"authorization", b"Bearer " + key.encode()))]
        head.append(b"content-length: %d" % len(self.body))
        return b"\r\n".join(head) + b"\r\n\r\n" + self.body

    def __str__(self) -> str:
        return f"{self.method} {self.target[:200]!r} {self.headers!r:.300} {self.body[:300]!r}"


def requests(
    described: Mapping[str, Any], rounds: int, seed: int, left_out: Sequence[str], raw: Sequence[str] = ()
) -> Iterator[Request]:
    """For each route: what schemathesis makes of its description, right and wrong, and odd ones of each kind, so many
    times. `raw`: paths of the relay that are not described; `left_out`: operations that would stop what is tested."""
    chance = random.Random(seed)
    right: dict[str, list[Any]] = {}
    for each in made(dict(described), 2):
        if each.operation in left_out:
            continue
        headers = tuple((name.lower().encode(), value.encode()) for name, value in each.headers.items())
        yield Request(each.method, each.operation, quote(each.path, safe="/%?&=,:@+").encode(), headers, each.body)
        try:
            right.setdefault(each.operation, []).append(json.loads(each.body or b"null"))
        except ValueError:
            continue
    routes = [
        (method.upper(), path, operation)
        for path, methods in described["paths"].items()
        for method, operation in methods.items()
    ]
    routes += [("POST", path, {}) for path in raw if path not in described["paths"]]
    for method, path, operation in routes:
        label = f"{method} {path}"
        if label in left_out:
            continue
        bodies = [RELAYED[path]] if path in RELAYED else [each for each in right.get(label, []) if each] or [{}]
        if path in ("/v1/chat/completions", "/v1/responses"):
            bodies += RECIPES
        for _ in range(rounds):
            yield from _odd(method, path, operation, bodies, chance)


def _odd(
    method: str, path: str, operation: Mapping[str, Any], bodies: Sequence[Any], chance: random.Random
) -> Iterator[Request]:
    label = f"{method} {path}"
    json_kind = ((b"content-type", b"application/json"),)
    plain = re.sub("{[^}]*}", "x", path).encode()
    right = json.dumps(chance.choice(bodies)).encode()
    if "{" in path:
        segment = chance.choice(oddities.SEGMENTS)
        yield Request(method, label, re.sub(b"{[^}]*}", lambda _: segment, path.encode()), json_kind, right)
    queries = [each["name"] for each in operation.get("parameters", ()) if each["in"] == "query"] or ["x"]
    odd = quote(chance.choice(oddities.TEXTS), errors="surrogatepass")[:8000].encode()
    odd = chance.choice((odd, *oddities.SEGMENTS))
    yield Request(method, label, plain + b"?%s=%s" % (chance.choice(queries).encode(), odd), json_kind, right)
    yield Request(method, label, plain, (*json_kind, chance.choice(oddities.HEADERS)), right)
    if method not in ("POST", "PUT", "PATCH"):
        return
    for _ in range(3):
        body = oddities.with_oddity(json.loads(json.dumps(chance.choice(bodies))), chance)
        yield Request(method, label, plain, json_kind, body)
    yield Request(method, label, plain, json_kind, oddities.with_broken_bytes(right, chance))
    yield Request(method, label, plain, ((b"content-type", chance.choice(oddities.KINDS)),), right)
    body, kind = oddities.form(chance, FORM_FIELDS)
    yield Request(method, label, plain, ((b"content-type", kind),), body)
