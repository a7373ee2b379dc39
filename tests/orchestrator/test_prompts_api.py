"""Recipes over HTTP: made, compared, previewed, labelled, rolled back; two orchestrators follow a label."""

from pathlib import Path
from typing import Any

import httpx2

from tests.fakes.studio import Studio, studio_over
from tests.fakes.wait import answers
from tests.fakes.workers import token_ids
from tests.orchestrator.test_proof import digest

SCHEMA = {
    "type": "object",
    "required": ["message"],
    "additionalProperties": False,
    "properties": {"message": {"type": "string", "minLength": 1, "maxLength": 400}},
}


def new(text: str, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "system", "body": text}, {"role": "user", "body": "{{ message }}"}]
    return {"name": "greet", "model": "qwen_instruct", "messages": messages, "variables": SCHEMA, **fields}


async def put(studio: Studio, path: str, body: dict[str, Any]) -> httpx2.Response:
    return await studio.http.put(path, json=body, headers={"authorization": f"Bearer {studio.key}"})


async def made(studio: Studio, *texts: str) -> None:
    for text in texts:
        answer = await studio.post("/v1/prompts", new(text))
        assert answer.status_code == 200, answer.text


def named(version: str | None = None) -> dict[str, Any]:
    chosen = {} if version is None else {"version": version}
    return {"prompt": {"id": "greet", "variables": {"message": "Hi"}, **chosen}}


async def test_two_orchestrators_follow_a_label_and_its_rollback(migrated_dsn: str, tmp_path: Path) -> None:
    async with studio_over(migrated_dsn, tmp_path) as one, studio_over(migrated_dsn, tmp_path) as other:
        await one.proving_worker()
        await other.proving_worker("prover-2")
        await made(one, "First.", "Second.")

        async def served(studio: Studio) -> str:
            answer = await studio.post("/v1/chat/completions", named("staging"))
            return str(answer.headers.get("x-prompt-release"))

        async def both_serve(release: str) -> None:
            async def served_by_both() -> bool:
                return {await served(one), await served(other)} == {release}

            await answers(served_by_both, f"{release} at both")

        assert (await put(one, "/v1/prompts/greet/labels/staging", {"version": 1, "revision": 0})).status_code == 200
        await both_serve("greet@1")
        assert (await put(other, "/v1/prompts/greet/labels/staging", {"version": 2, "revision": 1})).status_code == 200
        await both_serve("greet@2")
        stale = await put(one, "/v1/prompts/greet/labels/staging", {"version": 1, "revision": 1})
        assert (stale.status_code, stale.json()["error"]["code"]) == (409, "label_moved")
        assert (await one.post("/v1/prompts/greet/labels/staging/rollback", {})).json()["version"] == 1
        await both_serve("greet@1")
        sdk = await one.sdk().chat.completions.create(model="-", messages=[], extra_body=named("staging"))
        assert sdk.choices[0].message.content == "seed None: Hi"


async def test_create_get_list_diff(studio: Studio) -> None:
    await made(studio, "First.", "Second.")
    again = await studio.post("/v1/prompts", new("First."))
    assert again.json() | {"sha256": ""} == {"name": "greet", "version": 1, "sha256": "", "created": False}
    listed = (await studio.get("/v1/prompts")).json()["data"]
    assert "greet" in [entry["name"] for entry in listed]
    whole = (await studio.get("/v1/prompts/greet")).json()
    assert [release["version"] for release in whole["releases"]] == [2, 1]
    release = (await studio.get("/v1/prompts/greet/releases/1")).json()
    assert release["messages"][0] == {"role": "system", "template": "greet/system-0", "body": "First."}
    assert release["sha256"] == whole["releases"][1]["sha256"]
    diff = (await studio.get("/v1/prompts/greet/diff?from=1&to=2")).json()["diff"]
    assert "-First." in diff
    assert "+Second." in diff
    assert (await studio.get("/v1/prompts/nothing")).status_code == 404


async def test_a_refusal_says_where(studio: Studio) -> None:
    answer = await studio.post("/v1/prompts", new("Hello\n  {{ nobody }}"))
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "template_refused")
    assert error["message"].startswith("greet/system-0: line 2, column 6: reads `nobody`")


async def test_a_preview_shows_messages_and_the_engines_token_count(studio: Studio) -> None:
    await studio.proving_worker()
    await made(studio, "First.")
    body = {"version": "1", "variables": {"message": "Hi"}}
    shown = (await studio.post("/v1/prompts/greet/preview", body)).json()
    assert shown["messages"] == [{"role": "system", "content": "First."}, {"role": "user", "content": "Hi"}]
    ids = token_ids(shown["messages"])
    assert (shown["tokens"], shown["prompt_tokens_sha256"]) == (len(ids), digest(ids))
    assert shown["messages_sha256"] == digest(shown["messages"])
    answer = await studio.post("/v1/chat/completions", named("1"))
    assert answer.headers["x-prompt-tokens-sha256"] == shown["prompt_tokens_sha256"]


async def test_an_include_that_is_stored_is_used_by_name(studio: Studio) -> None:
    await studio.post("/v1/prompts", new("{% include 'shared/tone' %}", includes={"shared/tone": "Be kind."}))
    later = await studio.post("/v1/prompts", new("Now: {% include 'shared/tone' %}"))
    assert later.status_code == 200, later.text
    body = {"version": "2", "variables": {"message": "Hi"}, "count_tokens": False}
    shown = (await studio.post("/v1/prompts/greet/preview", body)).json()
    assert shown["messages"][0]["content"] == "Now: Be kind."
    missing = await studio.post("/v1/prompts", new("{% include 'shared/none' %}"))
    assert missing.json()["error"]["code"] == "template_not_found"


async def test_a_protected_label(studio: Studio) -> None:
    await made(studio, "First.", "Second.")
    path = "/v1/prompts/greet/labels/production"
    assert (await put(studio, path, {"version": 1, "protected": True})).status_code == 200
    assert (await put(studio, path, {"version": 2})).json()["error"]["code"] == "forbidden_write"
    assert (await put(studio, path, {"version": 2, "confirm": True})).json()["version"] == 2


async def test_only_an_admin_may(studio: Studio) -> None:
    from tests.fakes.studio import WORKER_KEY

    for path in ("/v1/prompts", "/v1/policies", "/v1/runs"):
        assert (await studio.get(path, key=WORKER_KEY)).status_code == 403
