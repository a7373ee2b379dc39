"""The worker as a process of its own: told to stop, and killed."""

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.client import connected, request
from tests.fakes.orchestrator import Orchestrator, listening
from tests.fakes.wait import soon
from tests.image.asking import GENERATIONS, get, post
from tests.image.processes import KEY, START_SECONDS, free_port, started

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
        async with started(tmp_path, port, ORCHESTRATOR_URL=peer.url) as process:
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
