"""Several processes that serve one port: started, replaced where one ends, stopped together.

Each binds the port itself (SO_REUSEPORT: the kernel spreads connections over those that listen), so one that has died,
or is not ready yet, gets none. This process serves nothing. Its children are on leashes (core/process/leash.py) and do
not outlive it.
"""

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from core.http.serving import bind
from core.process.child import Backoff, Child, Command

log = logging.getLogger(__name__)

MOST_FAILED_STARTS = 5  # in a row, of one that replaces another
FIRST_BACKOFF, LONGEST_BACKOFF, HEALTHY_SECONDS = 0.5, 30.0, 60.0


@contextlib.contextmanager
def reserved(host: str, port: int) -> Iterator[int]:
    """The port, the children's alone while the block runs. One that is taken ends the process, as `bind` does."""
    bind(host, port).close()  # where another program listens, this fails; to share would not
    with bind(host, port, shared=True) as sock:
        yield sock.getsockname()[1]


class Processes:
    """`count` children. `command` says what the one at a place runs; each makes `ready(place)` once it serves."""

    def __init__(self, count: int, command: Callable[[int], Command], ready: Callable[[int], Path]) -> None:
        self._count = count
        self._command = command
        self._ready = ready
        self._children: dict[int, Child] = {}
        self._stopping = asyncio.Event()
        self._signal = signal.SIGTERM

    async def run(self) -> int:
        """Until SIGTERM or SIGINT, which all are told; or until one cannot start, with whose exit status all end."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number)
        statuses = await asyncio.gather(*map(self._keep, range(self._count)))
        return max(0 if status == 128 + self._signal else status for status in statuses)

    def _stop(self, number: signal.Signals) -> None:
        self._signal = number
        self._stopping.set()
        for child in self._children.values():
            child.signal(number)

    async def _keep(self, place: int) -> int:
        """The exit status of the last process at this place."""
        backoff = Backoff(FIRST_BACKOFF, LONGEST_BACKOFF, HEALTHY_SECONDS)
        failed = MOST_FAILED_STARTS - 1  # the first must start
        while True:
            child = self._children[place] = await Child.start(self._command(place))
            if self._stopping.is_set():
                child.signal(self._signal)
            status = await child.wait()
            if self._stopping.is_set():
                return status
            failed = 0 if self._ready(place).exists() else failed + 1
            self._ready(place).unlink(missing_ok=True)
            log.error("a process ended", extra={"place": place, "exit": status, "failed_starts": failed})
            if failed >= MOST_FAILED_STARTS:
                self._stop(signal.SIGTERM)
                return status
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), backoff.after(time.monotonic() - child.started))
                return 0
