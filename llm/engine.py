"""One vLLM engine: a child process on loopback, its readiness, its restarts, its clean end."""

import asyncio
import contextlib
import logging
import secrets
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import aiohttp
from yarl import URL

from core.child import Command, Kept
from core.errors import Unavailable
from llm.catalogue import Model

log = logging.getLogger(__name__)

State = Literal["stopped", "starting", "ready"]

POLL_SECONDS = 0.25
PROBE_SECONDS = 2.0
PROBE_TIMEOUT = aiohttp.ClientTimeout(total=10)
FAILED_PROBES = 3
TYPICAL_START_SECONDS = 30.0

# What is not sent is the API's own default, not the checkpoint's; nothing phones home; no address a caller named
# is fetched (the one allowed media domain cannot exist).
PURE_ARGS = ("--generation-config", "vllm", "--allowed-media-domains", "none.invalid", "--disable-uvicorn-access-log")
PURE_ENV = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "PYTHONDONTWRITEBYTECODE": "1"}


class Engine:
    """Keeps one model's engine running. `url` is where it is while it is ready."""

    def __init__(
        self,
        model: Model,
        python: Path,
        module: str,
        data_dir: Path,
        session: Callable[[], aiohttp.ClientSession],
        *,
        start_seconds: float = 900.0,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.model = model
        self.state: State = "stopped"
        self.key = secrets.token_urlsafe(24)
        self.loads = 0
        self.checkpoint: Path | None = None
        self.chat_template: Path | None = None
        self.control_tokens: tuple[str, ...] | None = None
        self._python, self._module, self._data_dir = python, module, data_dir
        self._session = session
        self._start_seconds = start_seconds
        self._on_change = on_change
        self._port = 0
        self._started = time.monotonic()
        self._start_took = TYPICAL_START_SECONDS
        self._kept = Kept(self._command, on_exit=self._ended)

    @property
    def url(self) -> URL:
        return URL(f"http://127.0.0.1:{self._port}")

    @property
    def pid(self) -> int | None:
        """The engine's process group, None while nothing runs."""
        return self._kept.child.pid if self._kept.child else None

    @property
    def restarts(self) -> int:
        return self._kept.restarts

    def require_ready(self) -> URL:
        """Where to send a request. Raises Unavailable, with the seconds a start usually still takes."""
        if self.state == "ready":
            return self.url
        raise Unavailable(
            f"The engine of {self.model.id} is {self.state}.", code="engine_unavailable", retry_after=self._eta()
        )

    async def run(self) -> None:
        """Start the engine and keep it; until cancelled, then stop its whole process group."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._kept.run())
            tasks.create_task(self._watch())

    async def _watch(self) -> None:
        """Follow readiness: poll fast while it starts, slowly while it serves; end an engine that hangs."""
        failed = 0
        while True:
            await asyncio.sleep(PROBE_SECONDS if self.state == "ready" else POLL_SECONDS)
            child = self._kept.child
            if child is None:
                continue
            healthy = await self._healthy()
            failed = 0 if healthy or self.state != "ready" else failed + 1
            if healthy and self.state == "starting":
                self._start_took = time.monotonic() - self._started
                self.loads += 1
                log.info("engine ready", extra={"model": self.model.id, "seconds": round(self._start_took, 1)})
                self._become("ready")
            late = self.state == "starting" and time.monotonic() - self._started > self._start_seconds
            if late or failed >= FAILED_PROBES:
                log.error("engine does not answer; restarting it", extra={"model": self.model.id})
                failed = 0
                await child.stop()

    async def _healthy(self) -> bool:
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            async with self._session().get(self.url / "health", timeout=PROBE_TIMEOUT) as response:
                return response.status == 200
        return False

    def _command(self) -> Command:
        self._port = _free_port()
        self._started = time.monotonic()
        self._become("starting")
        served = ("--served-model-name", *self.model.names)
        template = ("--chat-template", str(self.chat_template)) if self.chat_template else ()
        return Command(
            name=f"engine:{self.model.id}",
            argv=(
                *(str(self._python), "-m", self._module, "--model", str(self.checkpoint or self.model.source)),
                *("--host", "127.0.0.1", "--port", str(self._port), "--max-model-len", str(self.model.max_model_len)),
                *served,
                *template,
                *PURE_ARGS,
                *self.model.args,
            ),
            env={**PURE_ENV, **self.model.env, "VLLM_API_KEY": self.key},
            log_path=self._data_dir / "logs" / f"engine-{self.model.id}.log",
        )

    async def _ended(self, code: int) -> None:
        self._become("stopped")

    def _become(self, state: State) -> None:
        if state != self.state:
            self.state = state
            self._on_change()

    def _eta(self) -> float:
        return max(1.0, min(60.0, self._start_took - (time.monotonic() - self._started)))


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
