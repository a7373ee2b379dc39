"""Whose turn it is on the device, where several engines share it; and since when."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Device:
    """One engine at a time, in the order in which they asked."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._queue: deque[threading.Event] = deque()
        self._lock = threading.Lock()
        self._busy_since: float | None = None

    @contextmanager
    def turn(self) -> Iterator[None]:
        mine = threading.Event()
        with self._lock:
            self._queue.append(mine)
            if len(self._queue) == 1:
                mine.set()
        mine.wait()
        self._busy_since = self.clock()
        try:
            yield
        finally:
            self._busy_since = None
            with self._lock:
                self._queue.popleft()
                if self._queue:
                    self._queue[0].set()

    def pass_on(self) -> None:
        """Inside a turn: let whoever waits go first, and go on afterwards. Touch the watch."""
        mine = threading.Event()
        with self._lock:
            self._queue.append(mine)
            self._queue.popleft()
            self._queue[0].set()
        self._busy_since = None
        mine.wait()
        self._busy_since = self.clock()

    @property
    def busy_seconds(self) -> float:
        """How long the present turn has lasted; any thread may ask."""
        since = self._busy_since
        return 0.0 if since is None else max(0.0, self.clock() - since)
