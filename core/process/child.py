"""A child process that cannot outlive us, kept alive: started, watched, restarted with backoff, stopped whole."""

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from core import metrics
from core.process import leash

log = logging.getLogger(__name__)

MAX_LOG_BYTES = 16 << 20  # of a log and of the one before it, NAME.1


@dataclass(frozen=True)
class Command:
    """What to run. `log_path` receives its standard output and error, rotated while it runs; None: they are this
    process's own. `grace` is seconds from SIGTERM to SIGKILL.
    `until_gone`: open files that the leash keeps until the whole group has ended; the command does not get them."""

    name: str
    argv: tuple[str, ...]
    log_path: Path | None
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    grace: float = 10.0
    until_gone: tuple[int, ...] = ()
    log_bytes: int = MAX_LOG_BYTES


class Child:
    """One running process group on a leash (see core/process/leash.py)."""

    def __init__(self, command: Command, process: asyncio.subprocess.Process) -> None:
        self.command = command
        self.started = time.monotonic()
        self._process = process

    @classmethod
    async def start(cls, command: Command) -> "Child":
        log = None if command.log_path is None else command.log_path.absolute()
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.nullcontext() if log is None else log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-I",
                "-S",
                str(leash.__file__),
                str(command.grace),
                str(log or ""),
                str(command.log_bytes),
                *command.argv,
                stdin=subprocess.PIPE,
                stdout=output,  # the leash's own complaints
                stderr=output,
                cwd=command.cwd,
                env={**os.environ, **command.env},
                start_new_session=True,
                pass_fds=command.until_gone,
            )
        metrics.CHILD_STARTS.labels(command.name).inc()
        return cls(command, process)

    @property
    def pid(self) -> int:
        """The process group: its leader is the leash, the command itself is the leash's child."""
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.returncode is None

    def signal(self, number: int) -> None:
        """The whole group gets it and is ended after the grace; a second one goes to the command alone."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def wait(self) -> int:
        """The exit status; whatever the group still holds is ended first."""
        code = await self._process.wait()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)  # only if the leash itself was killed
        return code

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL after the grace; returns when the group is gone."""
        if self.running:
            self.signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(self._process.wait(), self.command.grace + 2)
            except TimeoutError:
                self._process.kill()
        await self.wait()


class Backoff:
    """Seconds to wait before the next start: doubled to `longest`; a life of `healthy` seconds begins anew."""

    def __init__(self, first: float, longest: float, healthy: float) -> None:
        self._first, self._longest, self._healthy = first, longest, healthy
        self._next = first

    def after(self, lived: float) -> float:
        wait = self._first if lived >= self._healthy else self._next
        self._next = min(wait * 2, self._longest)
        return wait


class SupervisedChild:
    """A child that is started again whenever it ends, with exponential backoff that a long life resets."""

    def __init__(
        self,
        command: Callable[[], Command],
        *,
        on_exit: Callable[[int], Awaitable[None]] | None = None,
        first_backoff: float = 0.5,
        max_backoff: float = 30.0,
        healthy_after: float = 60.0,
    ) -> None:
        self._command = command
        self._on_exit = on_exit
        self._backoff = Backoff(first_backoff, max_backoff, healthy_after)
        self.child: Child | None = None
        self.restarts = 0
        self.last_exit: int | None = None

    async def run(self) -> None:
        """Until cancelled; then the child is stopped."""
        try:
            while True:
                self.child = await Child.start(self._command())
                code = await self.child.wait()
                lived = time.monotonic() - self.child.started
                name = self.child.command.name
                self.child = None
                self.last_exit = code
                self.restarts += 1
                log.warning("child ended", extra={"child": name, "exit": code, "lived_s": round(lived, 1)})
                if self._on_exit is not None:
                    await self._on_exit(code)
                await asyncio.sleep(self._backoff.after(lived))
        finally:
            if self.child is not None:
                await asyncio.shield(self.child.stop())
                self.child = None
