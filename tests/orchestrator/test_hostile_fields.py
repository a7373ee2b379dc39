"""What a caller sends and the record of a run could not keep is a 400 that names the field; the studio goes on."""

import copy
import json
from typing import Any

import pytest

from tests.fakes.studio import Studio
from tests.orchestrator.test_prompts_api import SCHEMA, named, new

USER = [{"role": "user", "content": "x"}]
CHAT = "/v1/chat/completions"

FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"seed": 1.5}, "seed"),
    ({"seed": "abc"}, "seed"),
    ({"seed": True}, "seed"),
    ({"seed": 2**70}, "seed"),
    ({"seed": -(2**63) - 1}, "seed"),
    ({"a\0": 1}, "a\0"),
    ({"prompt": {"id": "greet\0"}}, "prompt.id"),
    ({"prompt": {"id": "greet", "version": "1\0"}}, "prompt.version"),
    ({"prompt": {"id": "greet", "version": "1", "variables": {"message": "Hi", "n": 2**53}}}, "prompt.variables.n"),
]


async def released(studio: Studio) -> None:
    """A recipe with a number among its variables."""
    schema: dict[str, Any] = copy.deepcopy(SCHEMA)
    schema["properties"]["n"] = {"type": "integer"}
    answer = await studio.post("/v1/prompts", {**new("First."), "variables": schema})
    assert answer.status_code == 200, answer.text


async def goes_on(studio: Studio) -> None:
    """What was written is written, and the next request is answered."""
    assert (await studio.get("/v1/runs")).status_code == 200
    assert (await studio.post(CHAT, named("1"))).status_code == 200
    assert (await studio.http.get("/healthz")).status_code == 200


@pytest.mark.parametrize(("fields", "param"), FIELDS)
async def test_a_recipes_field_is_named(studio: Studio, fields: dict[str, Any], param: str) -> None:
    worker = await studio.proving_worker()
    await released(studio)
    answer = await studio.post(CHAT, {**named("1"), **fields})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text
    assert worker.received == []
    await goes_on(studio)


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/responses", "/v1/embeddings", "/v1/images/generations"])
async def test_a_models_name_holds_no_nul(studio: Studio, path: str) -> None:
    await studio.proving_worker()
    await released(studio)
    body = {"model": "a\0", "messages": USER, "prompt": "x", "input": "x"}
    answer = await studio.post(path, body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "model")
    await goes_on(studio)


BODIES = [
    b'{"metadata": {"n": 1e400}, %b}',
    b'{"metadata": "\\ud800", %b}',
    b'{"metadata": "\xff", %b}',
    b'{"prompt": {"id": "greet", "variables": {"message": "\\ud800"}}, %b}',
    b'{"user": 1e400, %b}',
    b'{"n": 1e400, %b}',
]


@pytest.mark.parametrize("path", [CHAT, "/v1/responses"])
@pytest.mark.parametrize("body", BODIES)
async def test_what_is_no_json_in_a_field_that_nobody_reads(studio: Studio, body: bytes, path: str) -> None:
    await studio.proving_worker()
    await released(studio)
    recipe = b'"prompt": {"id": "greet", "version": "1", "variables": {"message": "Hi"}}'
    headers = {"authorization": f"Bearer {studio.key}"}
    answer = await studio.http.post(path, content=body % recipe, headers=headers)
    assert answer.status_code == 400, answer.text
    await goes_on(studio)


async def test_large_numbers_in_tools_pass_and_the_run_is_kept(studio: Studio) -> None:
    """A tool's schema may well name the largest number of 64 bits."""
    await studio.proving_worker()
    await released(studio)
    parameters = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 2**63 - 1}}}
    tools = [{"type": "function", "function": {"name": "f", "parameters": parameters}}]
    answer = await studio.post(CHAT, {**named("1"), "tools": tools, "metadata": {"n": 2**70}})
    assert answer.status_code == 200, answer.text
    run = await studio.get(f"/v1/runs/{answer.headers['x-run-id']}")
    assert len(run.json()["sampling"]["tools"]["sha256"]) == 64


HOSTILE_DOCUMENTS: list[dict[str, Any]] = [
    {"hard": [{"category": "own", "terms": ["\ud800"]}]},
    {"soft": [{"category": "\ud800", "terms": ["zzown"]}]},
    {"constraints": "\ud800"},
]


@pytest.mark.parametrize("document", HOSTILE_DOCUMENTS)
async def test_half_a_surrogate_pair_in_a_policy_is_a_400(studio: Studio, document: dict[str, Any]) -> None:
    headers = {"authorization": f"Bearer {studio.key}", "content-type": "application/json"}
    sent = json.dumps({"document": document}).encode()
    answer = await studio.http.post("/v1/policies", content=sent, headers=headers)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"].startswith("document")
