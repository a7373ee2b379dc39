"""Cancellation is normal: work that a client asked for ends when the client leaves."""

import asyncio
from types import TracebackType
from typing import Any, Self

from starlette.types import Receive


class ClientDisconnected(Exception):
    """The client closed its connection before the answer ended; nobody is left to answer."""


class until_disconnect:  # noqa: N801 - reads as a statement: `with until_disconnect(receive):`
    """Cancel the enclosed work when the client leaves, and raise ClientDisconnected in its place.

    Enter only after the request's body was read: every further ASGI message but the disconnect is dropped.
    `receive` is run by hand from one wait to the next, as a Task would do it: a Task of its own, made and cancelled
    for every request, costs several times as much. The loop calls back only while the work is suspended inside the
    block, so the cancellation always lands inside it.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._left = self._over = False
        self._waits_for: asyncio.Future[Any] | None = None
        self._next: asyncio.Handle | None = None

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._loop = asyncio.get_running_loop()
        self._receiving = self._receive().__await__()
        self._run()
        return self

    def _run(self, _: object = None) -> None:
        """Up to where `receive` waits for a future, or has a message."""
        if self._over:
            return  # the future was done in the turn in which the block ended
        try:
            self._waits_for = self._receiving.send(None)
        except StopIteration as received:
            if received.value["type"] == "http.disconnect":
                self._next = self._loop.call_soon(self._leave)
                return
            self._receiving = self._receive().__await__()
            self._waits_for = None
        if self._waits_for is None:
            self._next = self._loop.call_soon(self._run)
        else:
            self._waits_for._asyncio_future_blocking = False  # what a Task says: this future is being waited for
            self._waits_for.add_done_callback(self._run)

    def _leave(self) -> None:
        self._left = True
        self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over = True
        if self._waits_for is not None:
            self._waits_for.remove_done_callback(self._run)
        if self._next is not None:
            self._next.cancel()
        self._receiving.close()
        if self._left:
            self._task.uncancel()
            if kind is asyncio.CancelledError:
                raise ClientDisconnected from None
