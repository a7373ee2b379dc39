"""Server-sent events: what is under way is told as it comes, and a client that leaves ends it at once."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from core.errors import SoundstageError
from core.http.disconnect import until_disconnect

T = TypeVar("T")


class EventStream(Response):
    """`events` yields each event's data, its type among them, or {} as a sign of life. An error is an event too: the
    status was sent long ago."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[dict[str, Any], None]) -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._events):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            with until_disconnect(receive):
                async for event in _with_errors(self._events):
                    await send({"type": "http.response.body", "body": _frame(event), "more_body": True})
            await send({"type": "http.response.body", "body": b""})


async def _with_errors(events: AsyncGenerator[dict[str, Any], None]) -> AsyncGenerator[dict[str, Any], None]:
    try:
        async for event in events:
            yield event
    except SoundstageError as exc:
        yield {"type": "error", **exc.envelope()}


async def together(sources: Sequence[AsyncGenerator[T, None]]) -> AsyncGenerator[tuple[int, T], None]:
    """What all of them yield, as it comes, with its source's number. One that fails does not end the others: the first
    error is raised after they have."""
    coming = {_next(source): i for i, source in enumerate(sources)}
    failed: SoundstageError | None = None
    try:
        while coming:
            done, _ = await asyncio.wait(coming, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                i = coming.pop(task)
                try:
                    item = task.result()
                except StopAsyncIteration:
                    continue
                except SoundstageError as exc:
                    failed = failed or exc
                    continue
                coming[_next(sources[i])] = i
                yield i, item
    finally:
        for task in coming:
            task.cancel()
        await asyncio.gather(*coming, return_exceptions=True)
        for source in sources:
            await source.aclose()
    if failed is not None:
        raise failed


def _next(source: AsyncGenerator[T, None]) -> asyncio.Task[T]:
    async def one() -> T:
        return await anext(source)

    return asyncio.create_task(one())


def _frame(event: dict[str, Any]) -> bytes:
    if not event:
        return b": running\n\n"  # a comment
    return b"event: %s\ndata: %s\n\n" % (event["type"].encode(), msgspec.json.encode(event))
