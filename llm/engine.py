"""One vLLM engine: a child process on loopback, its readiness, its restarts, its sleep, its clean end."""

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

from core.errors import Unavailable
from core.process.child import Command, SupervisedChild
from llm import device, memory_fallback
from llm.catalogue import Model

log = logging.getLogger(__name__)

State = Literal["stopped", "starting", "ready", "asleep", "unloaded"]
"""stopped: it should run, and does not (yet, or any more). asleep, unloaded: it gave way to another, on purpose."""

POLL_SECONDS = 0.25
PROBE_SECONDS = 2.0
PROBE_TIMEOUT = aiohttp.ClientTimeout(total=10)
FAILED_PROBES = 3
TYPICAL_START_SECONDS = 30.0

# What is not sent is the API's own default, not the checkpoint's; nothing phones home; no address a caller named
# is fetched (the one allowed media domain cannot exist).
PURE_ARGS = ("--generation-config", "vllm", "--allowed-media-domains", "none.invalid", "--disable-uvicorn-access-log")
PURE_ENV = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "PYTHONDONTWRITEBYTECODE": "1"}
SLEEP_FLAG = "--enable-sleep-mode"
SLEEP_SECONDS = 60.0
LOG_TAIL_BYTES = 64 << 10


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
        sleep_level: int = 1,
        on_change: Callable[[], None] = lambda: None,
        until_gone: tuple[int, ...] = (),
    ) -> None:
        """`until_gone`: open files that are kept until the engine's processes have ended."""
        self.model = model
        self.state: State = "stopped"
        self.key = secrets.token_urlsafe(24)
        self.loads = 0
        self.checkpoint: Path | None = None
        self.chat_template: Path | None = None
        self.control_tokens: tuple[str, ...] | None = None
        self.memory_deaths = 0  # so much less it is started with
        self._sleep_level = sleep_level
        self._wanted, self._unwanted = asyncio.Event(), asyncio.Event()
        self._wanted.set()
        self._changed = asyncio.Event()
        self._oom_kills, self._log_from = 0, 0
        self._python, self._module, self._data_dir = python, module, data_dir
        self._session = session
        self._start_seconds = start_seconds
        self._on_change = on_change
        self._until_gone = until_gone
        self._port = 0
        self._started = time.monotonic()
        self._start_took = TYPICAL_START_SECONDS
        self._process = SupervisedChild(self._command, on_exit=self._ended)

    @property
    def url(self) -> URL:
        return URL(f"http://127.0.0.1:{self._port}")

    @property
    def pid(self) -> int | None:
        """The engine's process group, None while nothing runs."""
        return self._process.child.pid if self._process.child else None

    @property
    def restarts(self) -> int:
        return self._process.restarts

    @property
    def can_sleep(self) -> bool:
        return SLEEP_FLAG in self.model.args

    @property
    def limits(self) -> memory_fallback.Limits:
        """What it is started with: the catalogue's, or less after deaths for want of memory."""
        return memory_fallback.limits(
            memory_fallback.sequences_of(self.model.args), self.model.max_model_len, self.memory_deaths
        )

    def unavailable(self) -> Unavailable:
        """What a caller is told, with the seconds that a start usually still takes."""
        return Unavailable(
            f"The engine of {self.model.id} is {self.state}.", code="engine_unavailable", retry_after=self.eta()
        )

    async def until(self, *states: State) -> None:
        """Wait for one of these states."""
        while self.state not in states:
            await self._changed.wait()

    def start(self) -> None:
        """It should run: if it did not, it is started."""
        self._unwanted.clear()
        self._wanted.set()

    def hold_back(self) -> None:
        """Before it ever ran: it does not run until `start`."""
        self._wanted.clear()
        self._become("unloaded")

    async def wake(self) -> None:
        """From sleep to ready. An engine that cannot wake is started anew."""
        if await self._woken() and self.state == "asleep":
            self.loads += 1
            self._become("ready")
        elif self.state == "asleep":
            await self.stop()
            self.start()

    async def _woken(self) -> bool:
        """From the second level the weights are gone: they are read again before there is a cache to answer with."""
        if self._sleep_level == 1:
            return await self._tell("wake_up")
        reload = {"method": "reload_weights"}
        return (
            await self._tell("wake_up?tags=weights")
            and await self._tell("collective_rpc", reload, self._start_seconds)
            and await self._tell("wake_up?tags=kv_cache")
        )

    async def give_way(self) -> None:
        """Free its memory: to sleep where it can, else stopped. It must have no request."""
        if self.can_sleep and self.state == "ready" and await self._tell(f"sleep?level={self._sleep_level}"):
            if self.state == "ready":
                self._become("asleep")
        else:
            await self.stop()

    async def stop(self) -> None:
        """Its process group is gone when this returns; `start` begins anew."""
        self._wanted.clear()
        self._unwanted.set()
        await self.until("unloaded")

    async def run(self) -> None:
        """Keep the engine while it should run; until cancelled, then stop its whole process group."""
        while True:
            await self._wanted.wait()
            running, unwanted = asyncio.ensure_future(self._keep()), asyncio.ensure_future(self._unwanted.wait())
            try:
                await asyncio.wait((running, unwanted), return_when=asyncio.FIRST_COMPLETED)
                if running.done():
                    running.result()  # it ends by itself only when it fails
            finally:
                running.cancel()
                unwanted.cancel()
                await asyncio.gather(running, unwanted, return_exceptions=True)
            self._become("unloaded")

    async def _keep(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._process.run())
            tasks.create_task(self._watch())

    async def _watch(self) -> None:
        """Follow readiness: poll fast while it starts, slowly while it serves; end an engine that hangs."""
        failed = 0
        while True:
            await asyncio.sleep(POLL_SECONDS if self.state in ("starting", "stopped") else PROBE_SECONDS)
            child = self._process.child
            if child is None or self.state == "asleep":
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

    async def _tell(self, what: str, body: object = None, seconds: float = SLEEP_SECONDS) -> bool:
        """Whether the engine did as it was told."""
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            headers = {"authorization": f"Bearer {self.key}"}
            url = URL(f"{self.url}/{what}")
            timeout = aiohttp.ClientTimeout(total=seconds)
            async with self._session().post(url, json=body, headers=headers, timeout=timeout) as response:
                return response.status == 200
        return False

    def _command(self) -> Command:
        self._port = _free_port()
        limits = self.limits
        log_path = self._data_dir / "logs" / f"engine-{self.model.id}.log"
        self._log_from = log_path.stat().st_size if log_path.exists() else 0
        self._oom_kills = device.oom_kills()
        reduced = ("--max-num-seqs", str(limits.max_num_seqs))
        args = (
            (*memory_fallback.without_sequences(self.model.args), *reduced) if self.memory_deaths else self.model.args
        )
        dev = {"VLLM_SERVER_DEV_MODE": "1"} if self.can_sleep else {}
        self._started = time.monotonic()
        self._become("starting")
        served = ("--served-model-name", *self.model.names)
        template = ("--chat-template", str(self.chat_template)) if self.chat_template else ()
        return Command(
            name=f"engine:{self.model.id}",
            argv=(
                *(str(self._python), "-m", self._module, "--model", str(self.checkpoint or self.model.source)),
                *("--host", "127.0.0.1", "--port", str(self._port), "--max-model-len", str(limits.max_model_len)),
                *served,
                *template,
                *PURE_ARGS,
                *args,
            ),
            env={**PURE_ENV, **dev, **self.model.env, "VLLM_API_KEY": self.key},
            log_path=log_path,
            until_gone=self._until_gone,
        )

    async def _ended(self, code: int) -> None:
        if memory_fallback.died_of_memory(code, self._log_tail(), device.oom_kills() - self._oom_kills):
            self.memory_deaths += 1
            said = {"model": self.model.id, "deaths": self.memory_deaths, **self.limits._asdict()}
            log.error("engine died for want of memory; it is started with less", extra=said)
        if self.state == "asleep":  # nobody waits for it: it is started again when it is asked for
            self._wanted.clear()
            self._unwanted.set()
        else:
            self._become("stopped")

    def _log_tail(self) -> str:
        """What this start has written, at most its last LOG_TAIL_BYTES."""
        file = self._data_dir / "logs" / f"engine-{self.model.id}.log"
        with contextlib.suppress(OSError), file.open("rb") as written:
            size = file.stat().st_size
            begin = self._log_from if self._log_from <= size else 0  # the log was set aside meanwhile
            written.seek(max(begin, size - LOG_TAIL_BYTES))
            return written.read().decode(errors="replace")
        return ""

    def _become(self, state: State) -> None:
        if state != self.state:
            self.state = state
            self._changed.set()  # who waits looks now; the next change is another one
            self._changed = asyncio.Event()
            self._on_change()

    def eta(self) -> float:
        return max(1.0, min(60.0, self._start_took - (time.monotonic() - self._started)))


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
