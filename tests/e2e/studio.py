"""The whole studio as `make up` starts it, driven from outside: real processes, a real engine, real clients."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import psutil
from openai import AsyncOpenAI

from tests.fakes.wait import soon

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 1800.0
STOP_SECONDS = 60.0


@dataclass
class Studio:
    """A running `make up`."""

    process: asyncio.subprocess.Process
    output: list[str]
    port: dict[str, int]
    data: Path

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port['PORT']}/v1"

    @property
    def key(self) -> str:
        return (self.data / "keys" / "local_api_key").read_text().strip()

    @property
    def text(self) -> str:
        return "".join(self.output)

    def client(self, key: str | None = None) -> AsyncOpenAI:
        return AsyncOpenAI(base_url=self.base_url, api_key=key or self.key, max_retries=0, timeout=120)

    def session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(headers={"authorization": f"Bearer {self.key}"})

    def processes(self) -> list[psutil.Process]:
        """Every descendant that is alive."""
        with contextlib.suppress(psutil.NoSuchProcess):
            found = psutil.Process(self.process.pid).children(recursive=True)
            return [p for p in found if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
        return []

    def service(self, module: str) -> psutil.Process:
        """The process of `python -m module` (not its leash)."""
        return next(p for p in self.processes() if command(p)[1:3] == ["-m", module])

    def engine(self) -> psutil.Process:
        """The API server of the vLLM engine."""
        return self.service("vllm.entrypoints.openai.api_server")

    def engine_port(self) -> int:
        words = command(self.engine())
        return int(words[words.index("--port") + 1])

    async def engine_metric(self, name: str) -> float:
        """One of vLLM's own metrics, read from the engine itself."""
        return await _metric(self.engine_port(), name)

    async def broken_off(self) -> float:
        """How many pictures the image engine did not draw to their end."""
        return await _metric(self.port["IMAGE_PORT"], "soundstage_image_requests_ended_total", 'outcome="cancelled"')

    async def image_engine(self) -> dict[str, int]:
        """What the image engine says that it is doing."""
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{self.port['IMAGE_PORT']}/health") as response:
                engine: dict[str, int] = (await response.json())["engine"]
                return engine

    async def stop(self, number: int = signal.SIGTERM) -> int:
        """Signal `make up`'s own process, and wait for its end."""
        if self.process.returncode is None:
            self.process.send_signal(number)
        async with asyncio.timeout(STOP_SECONDS):
            return await self.process.wait()


async def _metric(port: int, name: str, label: str = "") -> float:
    """The sum of the metric's values that carry the label."""
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/metrics") as response:
        text = await response.text()
    found = re.findall(rf"^{re.escape(name)}{{([^}}]*)}} (\S+)$", text, re.M)
    return sum(float(value) for labels, value in found if label in labels)


def command(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def free_ports(names: tuple[str, ...]) -> dict[str, int]:
    with contextlib.ExitStack() as stack:
        found = {}
        for name in names:
            sock = stack.enter_context(socket.socket())
            sock.bind(("127.0.0.1", 0))
            found[name] = sock.getsockname()[1]
        return found


@contextlib.asynccontextmanager
async def running_studio(data: Path, **environment: str) -> AsyncIterator[Studio]:
    """`make up` with its own ports and data directory, ready to serve; stopped at the end."""
    port = free_ports(("PORT", "CHAT_PORT", "IMAGE_PORT", "SELFIE_PORT"))
    own = ("DATABASE_URL", "LLM_URL", "HOST", "WAN_WORKER_API_KEY")
    given = {key: value for key, value in os.environ.items() if key not in own} | environment
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "compose.up"),
        cwd=ROOT,
        env={**given, "DATA_DIR": str(data), **{name: str(number) for name, number in port.items()}},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    studio = Studio(process, [], port, data)
    assert process.stdout
    reader = asyncio.ensure_future(_read(process.stdout, studio.output))
    try:
        async with asyncio.timeout(START_SECONDS):
            while "Ctrl-C stops it." not in studio.text:
                assert process.returncode is None, studio.text
                await asyncio.sleep(0.2)
        yield studio
    finally:
        if process.returncode is None:
            await studio.stop()
        await soon(reader)


@contextlib.contextmanager
def temporary_data() -> Iterator[Path]:
    """An empty data directory.

    Not below pytest's own: as root, the embedded Postgres runs as another user, who may not enter there.
    """
    with tempfile.TemporaryDirectory(prefix="soundstage-", ignore_cleanup_errors=True) as name:
        yield Path(name)


@contextlib.contextmanager
def data_directory(models: Path) -> Iterator[Path]:
    """A data directory that already holds the prepared models."""
    with temporary_data() as data:
        (data / "models").symlink_to(models)
        yield data


async def _read(stream: asyncio.StreamReader, into: list[str]) -> None:
    while line := await stream.readline():
        into.append(line.decode())


async def until_zero(read: Callable[[], Awaitable[float]], what: str, seconds: float = 30.0) -> None:
    """Poll a figure of another process until it is 0."""
    try:
        async with asyncio.timeout(seconds):
            while await read():
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"{what} is still not 0") from None
