"""A stop leaves no background job half done: what was begun here ends here, what is queued is left to others."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import psycopg
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator.app import create_app
from orchestrator.settings import OrchestratorSettings
from tests.fakes.serving import serving
from tests.fakes.studio import WORKER_KEY, Studio
from tests.fakes.wait import eventually
from tests.orchestrator.test_jobs import ASKED, PATH


def telling(service: ASGIApp, ends: asyncio.Event) -> ASGIApp:
    """The service; `ends` is set when its server has closed its door and tells it to end."""

    async def told(scope: Scope, receive: Receive, send: Send) -> None:
        async def received() -> Message:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                ends.set()
            return message

        await service(scope, received, send)

    return told


async def test_what_has_begun_ends_and_what_is_queued_is_left(durable_dsn: str, tmp_path: Path) -> None:
    settings = OrchestratorSettings.load(
        data_dir=tmp_path, wan_worker_api_key=WORKER_KEY, llm_url=None, ready_probe_seconds=0, log_level="warning"
    )
    service, ends = create_app(settings, durable_dsn), asyncio.Event()
    async with AsyncExitStack() as workers:
        async with serving(telling(service, ends)) as port:
            studio = Studio(port, (tmp_path / "keys" / "local_api_key").read_text().strip(), workers)
            await studio.chat_worker()
            image = await studio.image_worker()
            image.held.clear()
            begun = (await studio.post(PATH, {**ASKED, "background": True})).json()["id"]
            await eventually(lambda: image.running)
            service.stop()
            queued = (await studio.post(PATH, {**ASKED, "background": True})).json()["id"]
            await studio.http.aclose()

            async def let_go_at_the_end() -> None:
                await ends.wait()
                image.held.set()

            letting_go = asyncio.create_task(let_go_at_the_end())
        await letting_go
    async with await psycopg.AsyncConnection.connect(durable_dsn) as connection:
        rows = await (await connection.execute("select id, state, attempts from jobs")).fetchall()
    assert {id: (state, attempts) for id, state, attempts in rows} == {begun: ("completed", 1), queued: ("queued", 0)}
    assert len(image.received) == 1
