"""A service's background tasks. None of them ends by itself: one that does ends the process (core/http/serving.py), and
whatever started the process starts it again."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import Any

log = logging.getLogger(__name__)


AGAIN_SECONDS = 30.0  # longer than a task takes that writes what is left


async def end(tasks: Iterable["asyncio.Task[Any]"], why: str | None = None, again: float = AGAIN_SECONDS) -> None:
    """Cancel these until all have ended: a library may take a cancellation for a timeout of its own, and go on. What
    they raise is left to who started them."""
    given = list(tasks)
    while left := [task for task in given if not task.done()]:
        for task in left:
            task.cancel(why)
        await asyncio.wait(left, timeout=again)
    await asyncio.gather(*given, return_exceptions=True)


class Watchers:
    """Enter it on the loop that serves; when it is left, its tasks are cancelled and waited for."""

    def __init__(self) -> None:
        self.tasks: dict[str, asyncio.Task[Any]] = {}
        self.failed: str | None = None
        """The first task that ended though nobody stopped it."""
        self._stopped: set[str] = set()
        self._on_failure: list[Callable[[], object]] = []

    def on_failure(self, listener: Callable[[], object]) -> None:
        """It is called when a task has ended by itself, as often as that happens."""
        self._on_failure.append(listener)

    def start(self, name: str, work: Coroutine[Any, Any, object], *, may_end: bool = False) -> None:
        """`may_end`: only an error is a failure."""
        self.watch(name, asyncio.create_task(work, name=name), may_end=may_end)

    def watch(self, name: str, task: "asyncio.Task[Any]", *, may_end: bool = False) -> None:
        """The same for a task that somebody else has started."""
        self.tasks[name] = task
        task.add_done_callback(partial(self._ended, name, may_end))

    def cancel(self, *names: str) -> None:
        """These, or all; who leaves the block waits for their ends."""
        chosen = names or tuple(self.tasks)
        self._stopped.update(chosen)
        for name in chosen:
            self.tasks[name].cancel()

    async def stop(self) -> None:
        """All of them; returns when they have ended. What an ending task raises is logged."""
        self._stopped.update(self.tasks)
        await end(self.tasks.values())

    async def __aenter__(self) -> "Watchers":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def _ended(self, name: str, may_end: bool, task: "asyncio.Task[Any]") -> None:
        error = None if task.cancelled() else task.exception()
        if name in self._stopped:
            if error is not None:
                log.error("a background task failed as it was stopped", extra={"task": name}, exc_info=error)
            return
        if may_end and error is None and not task.cancelled():
            return
        log.critical("a background task ended: so does the process", extra={"task": name}, exc_info=error)
        self.failed = self.failed or name
        for listener in self._on_failure:
            listener()
