"""Server-sent events: what is under way is told as it comes, and a client that leaves ends it at once."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import msgspec
from starlette.responses import Response

from core.disconnect import until_disconnect
from core.errors import SoundstageError
from core.service import Receive, Scope, Send


class EventStream(Response):
    """`events` yields each event's data, its type among them, or {} as a sign of life.

    An error is an event too: the status was sent long ago.
    """

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


def _frame(event: dict[str, Any]) -> bytes:
    if not event:
        return b": running\n\n"  # a comment
    return b"event: %s\ndata: %s\n\n" % (event["type"].encode(), msgspec.json.encode(event))
