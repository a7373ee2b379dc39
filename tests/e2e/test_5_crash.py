"""kill -9, of the engine and of the orchestrator, under traffic; and the end of the studio, which leaves nothing."""

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from tests.e2e.studio import Studio, command, running_studio

ASK: Any = {"model": "qwen_instruct", "messages": [{"role": "user", "content": "Count."}], "max_tokens": 400}
RECOVERY_SECONDS = 240.0


async def answers(studio: Studio) -> None:
    """Ask as a patient client does, following Retry-After, until there is an answer."""
    async with asyncio.timeout(RECOVERY_SECONDS), studio.session() as session:
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                body = {**ASK, "max_tokens": 4}
                async with session.post(f"{studio.base_url}/chat/completions", json=body) as response:
                    if response.status == 200:
                        return
                    assert response.status == 503, await response.text()
                    assert int(response.headers["retry-after"]) >= 1
            await asyncio.sleep(0.5)


async def one(session: aiohttp.ClientSession, studio: Studio) -> tuple[int, str | None, dict[str, Any]]:
    body = {**ASK, "ignore_eos": True}
    async with session.post(f"{studio.base_url}/chat/completions", json=body) as response:
        return response.status, response.headers.get("retry-after"), await response.json()


async def stream(session: aiohttp.ClientSession, studio: Studio) -> bytes:
    """Everything that a streamed answer brought."""
    body = {**ASK, "stream": True, "ignore_eos": True}
    async with session.post(f"{studio.base_url}/chat/completions", json=body) as response:
        assert response.status == 200
        return await response.content.read()


async def test_kill_the_engine_under_traffic(studio: Studio) -> None:
    engine = studio.engine()
    async with studio.session() as session:
        streamed = asyncio.ensure_future(stream(session, studio))
        asked = [asyncio.ensure_future(one(session, studio)) for _ in range(6)]
        async with asyncio.timeout(180):
            while await studio.engine_metric("vllm:num_requests_running") < 7:
                await asyncio.sleep(0.05)
        os.kill(engine.pid, signal.SIGKILL)
        results = await asyncio.gather(*asked)
        events = (await streamed).strip().splitlines()
    for status, wait, body in results:
        assert status == 503, body
        assert wait is not None
        assert int(wait) >= 1
        assert set(body["error"]) == {"message", "type", "param", "code"}
    assert events[0].startswith(b"data: {")
    assert b'"error"' in events[-1]  # the stream had begun: its error is an event
    await answers(studio)
    assert studio.engine().pid != engine.pid


async def test_kill_the_orchestrator(studio: Studio) -> None:
    before = {name: studio.service(name).pid for name in ("orchestrator", "llm", "image", "vision")}
    engine = studio.engine().pid
    os.kill(before["orchestrator"], signal.SIGKILL)
    await answers(studio)
    after = {name: studio.service(name).pid for name in before}
    assert after.pop("orchestrator") != before.pop("orchestrator")
    assert after == before  # the workers kept their state,
    assert studio.engine().pid == engine  # the engine its model,
    names = await _eventually_all_models(studio)  # and all registered again
    assert "zimage-tiny-icons" in names


async def _eventually_all_models(studio: Studio) -> set[str]:
    async with asyncio.timeout(180), studio.client() as client:
        while True:
            names = {model.id async for model in client.models.list()}
            if {"qwen_instruct", "zimage-tiny-icons"} <= names:
                return names
            await asyncio.sleep(0.2)


async def worker(studio: Studio, path: str, body: Any = None) -> dict[str, Any]:
    """The chat worker's own answer."""
    key = (studio.data / "keys" / "worker_key").read_text().strip()
    url = f"http://127.0.0.1:{studio.port['CHAT_PORT']}{path}"
    async with aiohttp.ClientSession(headers={"authorization": f"Bearer {key}"}) as session:
        async with session.request("POST" if body else "GET", url, json=body) as response:
            told: dict[str, Any] = await response.json()
            assert response.status == 200, told
            return told


def engines(studio: Studio) -> list[psutil.Process]:
    return [p for p in studio.processes() if command(p)[1:3] == ["-m", "vllm.entrypoints.openai.api_server"]]


async def test_an_unload_frees_the_memory_and_a_load_starts_anew(studio: Studio) -> None:
    """The load is left to itself: the studio is killed in the middle of it."""
    full = await worker(studio, "/memory/status")
    told = await worker(studio, "/memory/unload", {"which": "all"})
    assert (told["success"], told["model_loaded"], told["instruct_loaded"]) == (True, False, False)
    assert (full["allocated_vram"] > 0.8, told["allocated_vram"]) == (True, 0), "its processes are gone"
    assert engines(studio) == []
    assert (await worker(studio, "/health"))["status"] == "healthy", "who asks for it has it loaded"
    loading = asyncio.ensure_future(worker(studio, "/memory/load", {"which": "all"}))
    async with asyncio.timeout(180):
        while not engines(studio):
            await asyncio.sleep(0.05)
    loading.cancel()
    await asyncio.wait([loading])


async def test_a_killed_studio_leaves_no_process_and_starts_again_and_stops_cleanly(studio: Studio) -> None:
    """The second time with an engine that loads nothing: that vLLM comes back is shown above."""
    started = studio.processes()
    children = {studio.service(name) for name in ("orchestrator", "llm", "image", "vision")}
    assert {*children, studio.engine()} < set(started)
    await studio.stop(signal.SIGKILL)
    await _all_gone(started, studio.data)
    async with running_studio(
        studio.data, VLLM_PYTHON=sys.executable, LLM_ENGINE_MODULE="tests.fakes.fake_engine"
    ) as again:
        started = again.processes()
        assert await again.stop(signal.SIGTERM) == 128 + signal.SIGTERM
        await _all_gone(started, studio.data)


async def _all_gone(processes: list[psutil.Process], data: Path) -> None:
    """Neither a process that was started, nor a Postgres on the data directory."""

    def left() -> list[psutil.Process]:
        known = [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
        databases = [p for p in psutil.process_iter() if str(data / "postgres") in _words(p)]
        return known + databases

    async with asyncio.timeout(180):
        while left():
            await asyncio.sleep(0.1)


def _words(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):
        return process.cmdline() if process.status() != psutil.STATUS_ZOMBIE else []
    return []
