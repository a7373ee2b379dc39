"""Cancellation is normal: work that a client asked for ends when the client leaves."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from types import TracebackType
from typing import Any, Self

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class ClientDisconnected(Exception):
    """The client closed its connection before the answer ended; nobody is left to answer."""


class until_disconnect:  # noqa: N801 - reads as a statement: `with until_disconnect(receive):`
    """Cancel the enclosed work when the client leaves, and raise ClientDisconnected in its place.

    Enter only after the request's body was read: every further ASGI message but the disconnect is dropped.
    The watching task can only run while the work is suspended inside the block, so the cancellation
    always lands inside it.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._left = False

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._watch = asyncio.get_running_loop().create_task(self._wait())
        return self

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._left = True
        self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watch.cancel()
        if self._left:
            self._task.uncancel()
            if kind is asyncio.CancelledError:
                raise ClientDisconnected from None
