"""The edge functions, run by Deno against an orchestrator: a recipe is streamed, a worker is registered."""

import asyncio
import json
import os
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from tests.fakes.studio import WORKER_KEY, Studio
from tests.fakes.wait import eventually

pytestmark = pytest.mark.slow

FUNCTIONS = Path(__file__).resolve().parents[2] / "compose" / "supabase" / "functions"
DENO = Path(sys.executable).with_name("deno")
CACHE = Path(sys.prefix, "deno-cache")  # what npm gave once is kept beside what PyPI gave
SERVICE_KEY = "the-service-key"
GRANTED = ("--allow-net", "--allow-env", "--allow-read", "--quiet")


async def deno(*arguments: str) -> tuple[int, str]:
    """Its exit status, and what it said."""
    process = await asyncio.create_subprocess_exec(
        str(DENO),
        *arguments,
        cwd=FUNCTIONS,
        env={**os.environ, "DENO_DIR": str(CACHE), "NO_COLOR": "1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    return process.returncode or 0, said.decode()


@asynccontextmanager
async def running(name: str, **environment: str) -> AsyncIterator[httpx2.AsyncClient]:
    """A function behind an address, as Supabase's runtime serves it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        str(DENO),
        *("run", *GRANTED, f"{name}/index.ts"),
        cwd=FUNCTIONS,
        env={**os.environ, "DENO_DIR": str(CACHE), "DENO_SERVE_ADDRESS": f"tcp:127.0.0.1:{port}", **environment},
    )
    try:
        await eventually(lambda: process.returncode is not None or _listens(port), f"the function {name}")
        assert process.returncode is None
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=120, trust_env=False) as client:
            yield client
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
async def openai_package() -> None:
    """npm's openai, once. Where the registry cannot be reached, what needs it is left out and says so."""
    code, said = await deno("cache", "chat/index.ts")
    if code:
        pytest.skip(f"npm's openai cannot be had: {said.strip()[-200:]}")


@pytest.mark.parametrize("arguments", [("fmt", "--check"), ("lint",)], ids=["format", "lint"])
async def test_the_functions_are_well_formed(arguments: Sequence[str]) -> None:
    code, said = await deno(*arguments)
    assert code == 0, said


async def test_the_functions_types_are_right(openai_package: None) -> None:
    code, said = await deno("check", "chat/index.ts", "register-chat-worker/index.ts")
    assert code == 0, said


async def test_a_recipe_is_streamed_to_an_app(studio: Studio, openai_package: None) -> None:
    worker = await studio.chat_worker()
    async with running("chat", SOUNDSTAGE_URL=studio.url, SOUNDSTAGE_API_KEY=studio.key) as app:
        answer = await app.post("/", json={"message": "Hello", "variables": {"name": "Ada"}})
        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream")
        assert answer.headers["x-prompt-release"] == "chat_conversation@1"
        events = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
        assert events[-1] == "[DONE]"
        said = "".join(c["delta"].get("content") or "" for e in events[:-1] for c in json.loads(e)["choices"])
        assert said
        [sent] = await worker.received()
        assert sent["body"]["messages"][-1] == {"role": "user", "content": "Hello"}
        assert sent["body"]["messages"][0]["role"] == "system", "the prompt is the studio's"
        assert (await app.post("/", json={"message": ""})).status_code == 400
        assert (await app.post("/", content=b"{")).status_code == 400
        assert (await app.get("/")).status_code == 405


async def test_the_studios_refusal_reaches_the_app(studio: Studio, openai_package: None) -> None:
    async with running("chat", SOUNDSTAGE_URL=studio.url, SOUNDSTAGE_API_KEY="wrong") as app:
        answer = await app.post("/", json={"message": "Hello"})
        assert answer.status_code == 401
        assert answer.json()["error"]["message"]


async def test_a_chat_worker_registers_through_supabase(studio: Studio) -> None:
    keys = {"SUPABASE_SERVICE_ROLE_KEY": SERVICE_KEY, "SOUNDSTAGE_ADMIN_KEY": studio.key}
    body = {
        **{"worker_url": "http://10.0.0.7:7861", "auto_registered": True, "worker_type": "pure_inference_engine"},
        **{"registration_method": "pure_inference_chat_worker", "timestamp": "2026-01-01T00:00:00Z"},
    }
    async with running(
        "register-chat-worker", SOUNDSTAGE_URL=studio.url, WAN_WORKER_API_KEY=WORKER_KEY, **keys
    ) as edge:
        headers = {"authorization": f"Bearer {SERVICE_KEY}"}
        for _ in range(2):  # a heartbeat says the same again
            answer = await edge.post("/", json=body, headers=headers)
            assert answer.json() == {
                "success": True,
                "worker": {"id": "engine:chat-10.0.0.7-7861", "url": "http://10.0.0.7:7861/"},
            }
        for wrong in ({}, {"authorization": "Bearer other"}):
            assert (await edge.post("/", json=body, headers=wrong)).status_code == 401
        for changed in ({"worker_url": "file:///etc"}, {"worker_url": "http://u:p@h"}, {"worker_type": "other"}):
            assert (await edge.post("/", json={**body, **changed}, headers=headers)).status_code == 400
