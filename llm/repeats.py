"""The same request again, by its `Idempotency-Key`: who asks while it runs waits for it, who asks later gets its
answer.

Kept are whole answers in JSON: what failed is not, and a stream passes once. What still runs ends with its client; who
waits for it then asks the engine.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterable

from prometheus_client import Counter
from starlette.types import Message, Send

from core.http import idempotency
from core.keyed_calls import Bounds, KeyedCalls

REPEATS = Counter("soundstage_chat_repeats_total", "Answers given again to who asked with the same key.")
MOST_BYTES = 1 << 20  # of one answer that is kept
_HEADER = idempotency.HEADER.lower().encode()
_REPEATED = idempotency.REPEATED.encode()


class RecordedCall:
    """A call, and its answer as it passed."""

    def __init__(self, sha256: str) -> None:
        self.sha256 = sha256
        self.over = asyncio.Event()
        self.body = bytearray()
        self._start: Message = {}
        self._whole = False

    def recording(self, send: Send) -> Send:
        async def record(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._start = {**message, "headers": list(message["headers"])}  # whoever sends it on may add some
            elif len(self.body) <= MOST_BYTES:
                self.body += message.get("body", b"")
                self._whole = not message.get("more_body", False)
            await send(message)

        return record

    @property
    def may_be_kept(self) -> bool:
        """Whether it is whole JSON, though its client may have gone before it had all of it."""
        if not self._whole or self._start["status"] != 200 or len(self.body) > MOST_BYTES:
            return False
        kind: bytes = dict(self._start["headers"]).get(b"content-type", b"")
        return kind.startswith(b"application/json")

    async def again(self, send: Send) -> None:
        REPEATS.inc()
        await send({**self._start, "headers": [*self._start["headers"], (_REPEATED, b"true")]})
        await send({"type": "http.response.body", "body": bytes(self.body)})


class Repeats:
    """Belongs to the event loop."""

    def __init__(self, bounds: Bounds) -> None:
        self._calls = KeyedCalls[RecordedCall](bounds)

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
        while (call := self._calls.find(name, sha256)) is not None:
            if call.over.is_set():
                await call.again(send)
                return
            await call.over.wait()
        call = self._calls.running[name] = RecordedCall(sha256)
        try:
            await ask(call.recording(send))
        finally:
            self._calls.end(name, call)
            if call.may_be_kept:
                self._calls.keep(name, call, len(call.body))
            call.over.set()
