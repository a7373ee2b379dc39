"""What the benchmark's seconds are."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

Read = Callable[[], float]


def reading(device: str) -> Read:
    """On a CPU the process's own time, so that others on the machine do not count; else the wall's."""
    return time.process_time if device == "cpu" else time.perf_counter


@dataclass
class Clock:
    """From 0, by `read`; waiting for the next arrival is skipped, not sat through."""

    read: Read
    _behind: float = field(init=False)

    def __post_init__(self) -> None:
        self._behind = self.read()

    def now(self) -> float:
        return self.read() - self._behind

    def wait_until(self, at: float) -> None:
        self._behind -= max(0.0, at - self.now())


def took(read: Read, work: Callable[[], object]) -> float:
    started = read()
    work()
    return read() - started
