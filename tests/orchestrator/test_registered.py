"""Any server that speaks OpenAI's API, registered by its URL: asked what it has, called with its own key, by admins."""

import json
import logging
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx2
import openai
import psycopg
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from psycopg import sql
from starlette.types import ASGIApp

from core.db.changes import Writer
from core.db.pool import open_pool
from orchestrator.operate.seal import Seal
from orchestrator.workers.registered import EngineRegistration, RegisteredEngines
from tests.fakes.studio import WORKER_KEY, Studio, studio_over
from tests.fakes.wait import answers
from tests.fakes.workers import ImageWorker

pytestmark = pytest.mark.slow

KEY = "sk-the-servers-own"
HI = [{"role": "user", "content": "Hi"}]


class OtherServer:
    """Another make of server: it has what `paths` say, and answers 404 for any other, as their frameworks do."""

    def __init__(self, *paths: str, models: tuple[str, ...] = ("llama-3",)) -> None:
        self.paths = paths
        self.models = models
        self.status = 200
        self.received: list[tuple[str, Any, str | None]] = []

    def app(self) -> FastAPI:
        api = FastAPI()

        @api.get("/v1/models")
        async def models() -> Response:
            data = [{"id": name, "object": "model"} for name in self.models]
            return JSONResponse({"object": "list", "data": data}, self.status)

        async def answer(request: Request) -> Response:
            body = await request.json()
            self.received.append((request.url.path, body, request.headers.get("authorization")))
            if not body:
                return JSONResponse({"error": {"message": "`messages` is required"}}, 400)
            choice = {"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}
            return JSONResponse({"id": "x", "object": "chat.completion", "created": 1, "choices": [choice]})

        for path in self.paths:
            api.post(path)(answer)
        return api

    @property
    def asked(self) -> list[tuple[str, Any, str | None]]:
        """Without what was asked to learn its paths."""
        return [each for each in self.received if each[1]]


async def registered(studio: Studio, app: ASGIApp, name: str = "other", **wanted: Any) -> httpx2.Response:
    url = await studio.serve(app)
    return await studio.post("/v1/workers", {"name": name, "url": f"{url}/v1", **wanted})


async def model_of(studio: Studio, name: str) -> dict[str, Any]:
    """Once it is there."""
    found: dict[str, Any] = {}

    async def there() -> bool:
        answer = await studio.get(f"/v1/models/{name}")
        found.update(answer.json())
        return answer.status_code == 200

    await answers(there, name)
    return found


async def test_what_a_server_lacks_is_found_out_by_asking(studio: Studio) -> None:
    server = OtherServer("/v1/chat/completions", "/v1/embeddings")
    answer = await registered(studio, server.app(), api_key=KEY, aliases={"big": "llama-3"})
    assert (answer.status_code, answer.json()["id"]) == (200, "engine:other")
    assert (await model_of(studio, "big"))["abilities"] == ["chat", "embeddings"]
    await studio.sdk().chat.completions.create(model="big", messages=HI)  # type: ignore[arg-type]
    assert server.asked == [("/v1/chat/completions", {"model": "llama-3", "messages": HI}, f"Bearer {KEY}")]
    for path in ("/v1/responses", "/v1/completions", "/tokenize"):
        refused = await studio.post(path, {"model": "llama-3", "input": "Hi", "prompt": "Hi"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found"), path


async def test_what_is_declared_is_not_asked(studio: Studio) -> None:
    server = OtherServer("/v1/chat/completions")
    await registered(studio, server.app(), abilities=["completions"], models=["only-this"], capacity=3)
    assert (await model_of(studio, "only-this"))["abilities"] == ["completions"]
    assert (await studio.get("/v1/models/llama-3")).status_code == 404
    assert server.received == []
    (listed,) = (await studio.get("/v1/workers")).json()["data"]
    assert (listed["id"], listed["capacity"], listed["breaker"]) == ("engine:other", 3, "closed")


async def test_another_api_named_tokenize_is_not_taken_for_ours(studio: Studio) -> None:
    app = OtherServer("/v1/chat/completions").app()

    @app.post("/tokenize")
    async def tokenize() -> dict[str, Any]:
        return {"tokens": []}

    await registered(studio, app)
    assert (await model_of(studio, "llama-3"))["abilities"] == ["chat"]


async def test_an_image_server(studio: Studio) -> None:
    worker = ImageWorker("omni")
    await registered(studio, worker.app(), kind="image", api_key=KEY)
    assert (await model_of(studio, "omni"))["abilities"] == ["images", "image_edits"]
    await studio.sdk().images.generate(model="omni", prompt="an apple")
    assert worker.headers[-1]["authorization"] == f"Bearer {KEY}"


async def test_every_orchestrator_asks_it_and_forgets_it_when_it_is_removed(migrated_dsn: str, tmp_path: Path) -> None:
    server = OtherServer("/v1/chat/completions")
    async with AsyncExitStack() as stack:
        one, other = [
            await stack.enter_async_context(studio_over(migrated_dsn, tmp_path, probe_seconds=0.1)) for _ in range(2)
        ]
        await registered(one, server.app(), api_key=KEY)
        for studio in (one, other):
            await model_of(studio, "llama-3")
        server.models = ("llama-4",)
        for studio in (one, other):
            await model_of(studio, "llama-4")
        headers = {"authorization": f"Bearer {one.key}"}
        assert (await one.http.delete("/v1/workers/engine:other", headers=headers)).status_code == 200
        for studio in (one, other):

            async def gone(studio: Studio = studio) -> bool:
                return not (await studio.get("/v1/workers")).json()["data"]

            await answers(gone, "its going")
        assert (await one.http.delete("/v1/workers/engine:other", headers=headers)).status_code == 404


async def test_only_an_admin_names_an_address(studio: Studio) -> None:
    key = (await studio.post("/v1/keys", {"name": "an app", "scopes": ["chat", "pipelines"]})).json()["secret"]
    body = {"name": "mine", "url": "http://10.0.0.1"}
    assert (await studio.post("/v1/workers", body, key=key)).json()["error"]["code"] == "missing_scope"
    assert (await studio.post("/v1/workers", body, key=WORKER_KEY)).status_code == 400  # it announces itself, or not
    assert (await studio.get("/v1/workers", key=key)).status_code == 403
    headers = {"authorization": f"Bearer {WORKER_KEY}"}
    assert (await studio.http.delete("/v1/workers/engine:other", headers=headers)).status_code == 403


WRONG: dict[str, dict[str, Any]] = {
    "no URL": {"name": "a"},
    "no HTTP": {"name": "a", "url": "file:///etc/hosts"},
    "a key of two lines": {"name": "a", "url": "http://a:1", "api_key": "a\r\nx-other: b"},
    "a password in it": {"name": "a", "url": "http://me:secretword@a:1"},
    "no name": {"url": "http://a:1"},
    "a name that is no name": {"name": "../a", "url": "http://a:1"},
    "an unknown ability": {"name": "a", "url": "http://a:1", "abilities": ["dance"]},
    "an unknown field": {"name": "a", "url": "http://a:1", "apikey": "secretword"},
}


async def test_what_is_wrong_is_said_without_what_was_sent(studio: Studio) -> None:
    for name, body in WRONG.items():
        answer = await studio.post("/v1/workers", body)
        assert answer.status_code == 400, name
        assert "secretword" not in answer.text, name


async def test_its_key_is_nowhere_to_be_read(
    migrated_dsn: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Not in an answer, a log, a metric, the audit chain or any table; another orchestrator's key does not open it."""
    caplog.set_level(logging.DEBUG)
    async with studio_over(migrated_dsn, tmp_path, probe_seconds=0.1) as studio:
        server = OtherServer("/v1/chat/completions")
        answer = await registered(studio, server.app(), api_key=KEY)
        await model_of(studio, "llama-3")
        server.status = 500
        with pytest.raises(openai.APIStatusError) as caught:
            await studio.sdk().chat.completions.create(model="nope", messages=HI)  # type: ignore[arg-type]
        pages = [await studio.get(path) for path in ("/v1/workers", "/v1/models", "/metrics", "/readyz")]
        shown = [answer.text, str(caught.value), caplog.text, *(page.text for page in pages)]
    async with await psycopg.AsyncConnection.connect(migrated_dsn) as connection:
        for table in ("engines", "engine_keys", "audit"):
            rows = await (
                await connection.execute(sql.SQL("select * from {}").format(sql.Identifier(table)))
            ).fetchall()
            assert rows, table
            shown.append(str(rows))
    assert not any(KEY in text for text in shown)
    async with open_pool(migrated_dsn, size=1) as pool:
        assert await RegisteredEngines(pool, Seal(bytes(32))).known() == []


async def test_a_key_opens_for_the_address_that_it_was_given_for_only(migrated_dsn: str) -> None:
    async with open_pool(migrated_dsn, size=1) as pool:
        engines = RegisteredEngines(pool, Seal(bytes(32)))
        wanted = EngineRegistration.model_validate({"name": "a", "url": "http://a:1/v1", "api_key": KEY})
        await engines.register(wanted, Writer("key_test"))
        assert [(each.url, each.key) for each in await engines.known()] == [("http://a:1/v1", KEY)]
        async with pool.connection() as connection:
            moved = json.dumps({**wanted.kept(), "url": "http://elsewhere:1/v1"})
            await connection.execute("update engines set wanted = %s", (moved,))
        assert await engines.known() == []
        await engines.register(
            EngineRegistration.model_validate({"name": "a", "url": "http://a:1/v1"}), Writer("key_test")
        )
        assert [(each.url, each.key) for each in await engines.known()] == [("http://a:1/v1", None)]
        async with pool.connection() as connection:
            await connection.execute("update engines set wanted = wanted || '{\"of_another_version\": 1}'")
        assert await engines.known() == []
