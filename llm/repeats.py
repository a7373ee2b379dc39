"""The same request again, by its `Idempotency-Key`: who asks while it runs waits for it, who asks later gets its
answer.

In memory alone, and bounded in number, bytes and age. Kept are whole answers in JSON: what failed is not, and a stream
passes once. What still runs ends with its client; who waits for it then asks the engine.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from prometheus_client import Counter
from starlette.types import Message, Send

from core.http import idempotency
from core.http.idempotency import Bounds, Kept

REPEATS = Counter("soundstage_chat_repeats_total", "Answers given again to who asked with the same key.")
MOST_BYTES = 1 << 20  # of one answer that is kept
_HEADER = idempotency.HEADER.lower().encode()
_REPEATED = idempotency.REPEATED.encode()

Name = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Given:
    """An answer, and the hash of the request that it was given to."""

    sha256: str
    start: Message
    body: bytes

    async def again(self, send: Send) -> None:
        REPEATS.inc()
        await send({**self.start, "headers": [*self.start["headers"], (_REPEATED, b"true")]})
        await send({"type": "http.response.body", "body": self.body})


class Recorded:
    """Passes an answer on and remembers it."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: Message = {}
        self._body = bytearray()
        self._whole = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = _copy(message)
        elif len(self._body) <= MOST_BYTES:
            self._body += message.get("body", b"")
            self._whole = not message.get("more_body", False)
        await self._send(message)

    def given(self, sha256: str) -> Given | None:
        """The answer, where it is whole and may be kept."""
        if not self._whole or self._start["status"] != 200 or len(self._body) > MOST_BYTES:
            return None
        kind: bytes = dict(self._start["headers"]).get(b"content-type", b"")
        return Given(sha256, self._start, bytes(self._body)) if kind.startswith(b"application/json") else None


class Repeats:
    """Belongs to the event loop."""

    def __init__(self, bounds: Bounds) -> None:
        self._kept = Kept[Given](bounds)
        self._running: dict[Name, tuple[str, asyncio.Future[None]]] = {}

    async def answer(
        self,
        path: str,
        headers: Iterable[tuple[bytes, bytes]],
        body: bytes,
        send: Send,
        ask: Callable[[Send], Awaitable[None]],
    ) -> None:
        """Have the engine asked, or give what it answered. Raises InvalidRequest, Conflict, and what `ask` raises."""
        key = idempotency.checked(next((value.decode("latin-1") for name, value in headers if name == _HEADER), None))
        if key is None:
            await ask(send)
            return
        name, sha256 = (path, key), hashlib.sha256(body).hexdigest()
        while (running := self._running.get(name)) is not None:
            _check(running[0], sha256)
            await asyncio.shield(running[1])
        given = self._kept.get(name)
        if given is None:
            await self._ask(name, sha256, send, ask)
        else:
            _check(given.sha256, sha256)
            await given.again(send)

    async def _ask(self, name: Name, sha256: str, send: Send, ask: Callable[[Send], Awaitable[None]]) -> None:
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._running[name] = (sha256, over)
        recorded = Recorded(send)
        try:
            await ask(recorded)
        finally:
            del self._running[name]
            over.set_result(None)
            given = recorded.given(sha256)  # whole, though the client may have gone before it had all of it
            if given is not None:
                self._kept.put(name, given, len(given.body))


def _copy(start: Message) -> Message:
    """Whoever sends it on may add headers."""
    return {**start, "headers": list(start["headers"])}


def _check(first: str, now: str) -> None:
    if first != now:
        raise idempotency.reused()
