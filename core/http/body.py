"""A request's body: bounded in bytes, values and time while it comes, or read whole."""

import asyncio

from starlette.types import Message, Receive

from core.errors import PayloadTooLarge, RequestTimeout
from core.http.body_budget import BodyShare
from core.http.disconnect import ClientDisconnected
from core.json.size import CONTROL_VALUES, ValueCount

BODY_SECONDS = 60.0


async def read_body(receive: Receive, timeout: float = BODY_SECONDS) -> bytes:
    """The whole request body. The shell has bounded its size; `timeout` (seconds) bounds a slow sender.

    Raises RequestTimeout, and ClientDisconnected when the client leaves before it has sent all.
    """
    task, late = asyncio.current_task(), False
    assert task is not None

    def expire() -> None:
        nonlocal late
        late = True
        task.cancel()

    timer = asyncio.get_running_loop().call_later(timeout, expire)
    try:
        return await _whole(receive)
    except asyncio.CancelledError:
        if not late:
            raise
        raise _too_late(timeout) from None
    finally:
        timer.cancel()
        if late:
            task.uncancel()


async def _whole(receive: Receive) -> bytes:
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


def within_bytes(receive: Receive, limit: int, share: BodyShare) -> Receive:
    """A body of no stated length is counted as it comes. Raises PayloadTooLarge, and what the share raises."""
    seen = 0

    async def receive_within() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            raise too_large(limit)
        share.reach(seen)
        return message

    return receive_within


def within_values(receive: Receive) -> Receive:
    """A body that is parsed on the loop holds at most CONTROL_VALUES values. Raises InvalidRequest."""
    values = ValueCount(CONTROL_VALUES)

    async def receive_within() -> Message:
        message = await receive()
        values.add(message.get("body", b""))
        return message

    return receive_within


def within_time(receive: Receive, seconds: float) -> Receive:
    """The whole body must arrive within this time. Raises RequestTimeout."""
    until, whole = asyncio.get_running_loop().time() + seconds, False

    async def receive_within() -> Message:
        nonlocal whole
        if whole:
            return await receive()  # a wait for the client's leaving
        try:
            async with asyncio.timeout_at(until):
                message = await receive()
        except TimeoutError:
            raise _too_late(seconds) from None
        whole = not message.get("more_body")
        return message

    return receive_within


def too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"The request body is larger than {limit} bytes.", code="body_too_large")


def _too_late(seconds: float) -> RequestTimeout:
    return RequestTimeout(f"The request body did not arrive within {seconds:g} s.", code="body_timeout")
