"""The worker as a process: after a success, a refusal, a client that left and kill -9 nothing of a picture is found."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
from fastapi import FastAPI, Request

from core.http.disconnect import ClientDisconnected, until_disconnect
from tests.fakes.canary import NAME, Canary, marked
from tests.fakes.client import ask, connected, request
from tests.fakes.serving import serving
from tests.fakes.wait import answers, eventually
from tests.image.processes import free_port
from tests.vision.photos import ASTRONAUT, multipart, photo

pytestmark = pytest.mark.slow  # workers as processes, their memory searched

ROOT = Path(__file__).resolve().parents[2]
MULTIPART = (b"content-type", b"multipart/form-data; boundary=soundstage")
QUESTION = (
    ("messages", None, b'[{"role": "user", "content": "Hair?"}]'),
    ("schema", None, b'{"type":"object","properties":{"hair":{"type":"boolean"}},"additionalProperties":false}'),
)


def analysis_of(data: bytes, *, asked: bool = False) -> bytes:
    body = multipart(("image", NAME, data), *(QUESTION if asked else ()))
    return request(b"POST", b"/v1/profile/analyze", [MULTIPART], body)


class HeldModel:
    """A vision model that never answers: whoever asks it holds all that there is of a picture."""

    def __init__(self) -> None:
        self.asked = self.left = 0

    def app(self) -> FastAPI:
        api = FastAPI()

        @api.post("/v1/chat/completions")
        async def hold(request: Request) -> None:
            self.asked += 1
            try:
                with until_disconnect(request.receive):
                    await asyncio.Event().wait()
            except ClientDisconnected:
                self.left += 1

        return api


@asynccontextmanager
async def process(folder: Path, port: int, model: int) -> AsyncIterator[asyncio.subprocess.Process]:
    """`python -m vision` that may write below `folder` alone, as far as it is asked."""
    places = {name: str(folder) for name in ("TMPDIR", "TMP", "TEMP", "HOME", "DATA_DIR", "XDG_CACHE_HOME")}
    model_settings = {"VISION_VLM_URL": f"http://127.0.0.1:{model}/v1", "VISION_VLM_MODEL": "held"}
    inherited = {name: os.environ[name] for name in ("PATH", "PYTHONDONTWRITEBYTECODE") if name in os.environ}
    with (folder / "worker.log").open("wb") as log:
        running = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "vision"),
            cwd=ROOT,
            env={**inherited, **places, **model_settings, "PORT": str(port), "LOG_LEVEL": "debug"},
            stdout=log,
            stderr=log,
        )
    try:
        yield running
    finally:
        if running.returncode is None:
            running.kill()
            await running.wait()


async def serves(port: int) -> bool:
    try:
        return (await ask(port, request(target=b"/readyz"))).status == 200
    except OSError:
        return False


@pytest.fixture
def canary() -> Canary:
    return marked(photo(ASTRONAUT))


async def test_no_trace_of_a_picture(canary: Canary, tmp_path: Path) -> None:
    port, model = free_port(), HeldModel()
    async with serving(model.app()) as there, process(tmp_path, port, there) as worker:
        await answers(lambda: serves(port), "the worker's start")
        if sys.platform == "linux":  # a core file would hold the picture
            assert psutil.Process(worker.pid).rlimit(psutil.RLIMIT_CORE) == (0, 0)
        good = await ask(port, analysis_of(canary.data))
        bad = await ask(port, analysis_of(canary.data[: len(canary.data) // 2]))
        assert (good.status, bad.status) == (200, 400)
        written = (tmp_path / "worker.log").read_bytes
        await eventually(lambda: b"/v1/profile/analyze" in written(), "the access log's lines")
        async with connected(port) as client:
            await client.send(analysis_of(canary.data, asked=True))
            await eventually(lambda: model.asked == 1, "the question")
            client.leave()
        await eventually(lambda: model.left == 1, "its end")
        decoders = psutil.Process(worker.pid).children()
        async with connected(port) as client:
            await client.send(analysis_of(canary.data, asked=True))
            await eventually(lambda: model.asked == 2, "the question")
            worker.send_signal(signal.SIGKILL)
            await worker.wait()
        await eventually(lambda: not any(_alive(one) for one in decoders), "the decoders' end")
    assert canary.found_below(tmp_path) == []
    for answer in (good, bad):
        assert canary.found_in(answer.body + str(answer.headers).encode()) == []


def _alive(one: psutil.Process) -> bool:
    return one.is_running() and one.status() != psutil.STATUS_ZOMBIE


def test_the_search_finds_what_is_there(canary: Canary, tmp_path: Path) -> None:
    for number, needle in enumerate(canary.needles):
        (tmp_path / "file").write_bytes(b"before" + needle + b"after")
        assert canary.found_below(tmp_path) == [str(tmp_path / "file")], number
    (tmp_path / "file").write_bytes(b"nothing")
    assert canary.found_below(tmp_path) == []
    (tmp_path / NAME).touch()
    assert canary.found_below(tmp_path) == [str(tmp_path / NAME)]
