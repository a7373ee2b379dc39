"""The worker as a process of its own: told to stop, and killed."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from core.http.serving import FAILED
from tests.fakes.chat_worker import chat_worker, engine_processes, instruct
from tests.fakes.client import connected, request
from tests.fakes.orchestrator import Orchestrator, listening
from tests.fakes.program import program
from tests.fakes.wait import soon
from tests.image.asking import GENERATIONS, get, post
from tests.image.processes import KEY, START_SECONDS, free_port, ready, started

pytestmark = pytest.mark.e2e


async def announced(peer: Orchestrator, **expected: Any) -> dict[str, Any]:
    """The next announcement that says so."""
    while True:
        async with asyncio.timeout(START_SECONDS):
            heard = await peer.heard.get()
        said: dict[str, Any] = json.loads(heard.said) if heard.method == "POST" else {"left": heard.said}
        if expected.items() <= said.items():
            return said


async def test_it_ends_what_runs_says_goodbye_and_comes_back_after_kill_9(tmp_path: Path) -> None:
    port = free_port()
    peer = Orchestrator()
    async with listening(peer):
        async with started(tmp_path, port, ORCHESTRATOR_URL=peer.url) as process:
            first = await announced(peer, ready=True)
            process.send_signal(signal.SIGKILL)
            await soon(process.wait())
        async with started(tmp_path, port, ORCHESTRATOR_URL=peer.url, STOP_SECONDS="90") as process:
            second = await announced(peer, ready=True)
            assert (second["id"] != first["id"], second["url"]) == (True, first["url"])
            async with connected(port) as client:
                asked = json.dumps({"prompt": "x", "steps": 24, "size": "128x128", "stream": True}).encode()
                await client.send(request(b"POST", GENERATIONS.encode(), KEY, asked))
                await client.head()  # it runs
                process.send_signal(signal.SIGTERM)
                await announced(peer, id=second["id"], ready=False, draining=True)
                refused = await post(port, GENERATIONS, {"prompt": "x"}, KEY)
                assert (refused.status, refused.error["code"]) == (503, "draining")
                assert (await get(port, "/readyz")).status == 503
                events = b""
                while chunk := await client.chunk():
                    events += chunk
                assert b"event: image_generation.completed" in events
            await announced(peer, left=second["id"])
            await soon(process.wait())


async def test_a_worker_whose_device_is_lost_tells_everybody_and_ends_with_an_error(
    checkpoint: Path, tmp_path: Path
) -> None:
    port = free_port()
    own = {"PORT": str(port), "DATA_DIR": str(tmp_path), "IMAGE_TOKEN_BUDGET": "4000", "IMAGE_DEFAULT_SIZE": "64x64"}
    command = (sys.executable, "-m", "tests.image.losing_program", str(checkpoint))
    with (tmp_path / "log").open("ab") as log:
        async with program(*command, env=os.environ | own, stdout=log, stderr=log) as process:
            await ready(port)
            asked = [post(port, GENERATIONS, {"prompt": "x", "steps": 9}) for _ in range(4)]
            answers = await asyncio.gather(*asked)
            assert {(answer.status, answer.error["code"]) for answer in answers} == {(503, "device_lost")}
            assert all(answer.header(b"retry-after") for answer in answers)
            try:
                probes = [(await get(port, path)).status for path in ("/readyz", "/healthz")]
            except ConnectionError:
                probes = [503, 503]  # it has ended
            assert probes == [503, 503]
            assert await soon(process.wait()) == FAILED
    assert "device-side assert" in (tmp_path / "log").read_text()


async def test_a_chat_worker_and_an_image_worker_use_one_device_by_turns(tmp_path: Path) -> None:
    """Both as processes that hold real memory; what each is asked for while the other works, it answers later."""
    port, folders = free_port(), (tmp_path / "chat", tmp_path / "image")
    for folder in folders:
        folder.mkdir()
    shared: dict[str, Any] = {"device_lease": tmp_path / "device", "device_lease_seconds": 1}

    def engine() -> int:
        return sum(e.process.memory_info().rss for e in engine_processes(folders[0]).values())

    async def image_loaded() -> bool:
        return bool((await get(port, "/health", KEY)).json()["model_loaded"])

    async def chats() -> int:
        return (await chat.chat()).status_code

    async def draws() -> int:
        return (await post(port, GENERATIONS, {"prompt": "x", "size": "128x128"}, KEY)).status

    model = instruct(folders[0], args=("--fake-ballast-mb", "200"), memory_gb=0.3)
    async with (
        started(folders[1], port, **{name.upper(): str(value) for name, value in shared.items()}),
        chat_worker(folders[0], [model], **shared) as chat,
    ):
        await ready(port)
        for _ in range(2):
            assert await chats() == 200
            assert (engine() > 200 << 20, await image_loaded()) == (True, False)
            assert await draws() == 200
            assert (engine(), await image_loaded()) == (0, True)
        async with asyncio.timeout(START_SECONDS):
            assert set(await asyncio.gather(*(ask() for ask in (chats, draws) * 4))) == {200}
