"""Registration with Supabase's edge function: the exact body and key, again and again, wherever the worker is."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from core.http.serving import bind
from llm.edge_registration import FUNCTION, keep
from llm.settings import ChatWorkerSettings
from tests.fakes.chat_worker import chat_worker, instruct
from tests.fakes.wait import soon


class Supabase:
    """Stands in for the edge function: keeps what it hears, answers with the status it is told."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[tuple[str, dict[str, str], Any]] = asyncio.Queue()
        self.statuses: list[int] = []
        self.url = ""

    async def register(self, request: web.Request) -> web.Response:
        status = self.statuses.pop(0) if self.statuses else 200
        self.heard.put_nowait((request.path, {k.lower(): v for k, v in request.headers.items()}, await request.json()))
        return web.json_response({"success": status == 200}, status=status)


@asynccontextmanager
async def listening(port: int = 0) -> AsyncIterator[Supabase]:
    supabase = Supabase()
    app = web.Application()
    app.add_routes([web.post("/{path:.*}", supabase.register)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
    await runner.setup()
    sock = bind("127.0.0.1", port)
    await web.SockSite(runner, sock).start()
    supabase.url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    try:
        yield supabase
    finally:
        await runner.cleanup()


def settings(folder: Path, url: str, **given: Any) -> ChatWorkerSettings:
    own = {"data_dir": folder, "supabase_url": url, "supabase_service_role_key": "service-key", "port": 7861}
    return ChatWorkerSettings.load(**{**own, "runpod_pod_id": None, "public_url": None, **given})


@asynccontextmanager
async def keeping(given: ChatWorkerSettings) -> AsyncIterator[None]:
    task = asyncio.ensure_future(keep(given, heartbeat=0.02, first_backoff=0.01, max_backoff=0.05))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_the_exact_body_and_key(tmp_path: Path) -> None:
    async with listening() as supabase, keeping(settings(tmp_path, supabase.url + "/", runpod_pod_id="pod1")):
        path, headers, body = await soon(supabase.heard.get())
        assert path == FUNCTION == "/functions/v1/register-chat-worker"
        assert (headers["authorization"], headers["apikey"]) == ("Bearer service-key", "service-key")
        assert headers["content-type"] == "application/json"
        assert datetime.fromisoformat(body.pop("timestamp")).tzinfo is not None
        assert body == {
            "worker_url": "https://pod1-7861.proxy.runpod.net",
            "auto_registered": True,
            "registration_method": "pure_inference_chat_worker",
            "worker_type": "pure_inference_engine",
            "capabilities": {"hardcoded_prompts": False, "prompt_modification": False, "pure_inference": True},
        }
        await soon(supabase.heard.get())


ADDRESSES: dict[str, tuple[dict[str, Any], str]] = {
    "the pod's proxy": ({"runpod_pod_id": "abc"}, "https://abc-7861.proxy.runpod.net"),
    "the pod's proxy, whatever is configured": (
        {"runpod_pod_id": "abc", "public_url": "http://127.0.0.1:7861"},
        "https://abc-7861.proxy.runpod.net",
    ),
    "as configured": ({"public_url": "https://chat.example/"}, "https://chat.example"),
    "the host's own": ({}, "http://127.0.0.1:7861"),
}


@pytest.mark.parametrize(("given", "wanted"), ADDRESSES.values(), ids=ADDRESSES.keys())
async def test_where_it_is_reached(tmp_path: Path, given: dict[str, Any], wanted: str) -> None:
    async with listening() as supabase, keeping(settings(tmp_path, supabase.url, **given)):
        assert (await soon(supabase.heard.get()))[2]["worker_url"] == wanted


async def test_it_tries_for_ever_with_backoff(tmp_path: Path) -> None:
    """Refused, broken, away altogether, then there again at the same address."""
    async with listening() as first:
        port = int(first.url.rsplit(":", 1)[1])
        first.statuses = [500, 401, 503]
        given = settings(tmp_path, first.url)
        task = asyncio.ensure_future(keep(given, heartbeat=0.02, first_backoff=0.01, max_backoff=0.05))
        for _ in range(5):
            await soon(first.heard.get())
    async with listening(port) as second:
        await soon(second.heard.get())
        task.cancel()
        await asyncio.wait([task])


async def test_a_new_pod_registers_its_new_address(tmp_path: Path) -> None:
    async with listening() as supabase:
        for pod in ("pod1", "pod2"):
            async with keeping(settings(tmp_path, supabase.url, runpod_pod_id=pod)):
                seen = ""
                while pod not in seen:
                    seen = json.dumps((await soon(supabase.heard.get()))[2])


async def test_the_other_name_of_the_key_and_the_worker_itself(tmp_path: Path) -> None:
    """A worker whose settings name Supabase registers when it starts; one without a key does not."""
    given: dict[str, Any] = {"supabase_service_role_key": None, "supabase_service_key": "other-key", "wait": False}
    models = [instruct(tmp_path)]
    async with listening() as supabase, chat_worker(tmp_path, models, supabase_url=supabase.url, **given):
        _, headers, _ = await soon(supabase.heard.get())
        assert headers["authorization"] == "Bearer other-key"
    without = ChatWorkerSettings.load(data_dir=tmp_path, supabase_url="http://x", supabase_service_role_key=None)
    assert without.supabase_key is None
