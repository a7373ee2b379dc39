"""Forward a request to an engine and its answer to the client: the same bytes both ways, as they come.

What is not forwarded: hop-by-hop headers (those that `connection` names too), `host`, `expect`, `content-length` (set
anew, same value; none on an answer that has no body), `x-request-id` (the shell's own is sent), what is the client's
own (CALLERS_OWN) or a proxy's (PROXIES), and what is an orchestrator's to say (INTERNAL, all `x-soundstage-`). An
engine's cookies and limits do not come back. Nothing is buffered, nothing decompressed, nothing re-encoded. Before the
first byte an error is raised, so the caller may try another engine; after it an error is an event in the stream.
"""

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError
from starlette.types import Receive, Send
from yarl import URL

from core import metrics
from core.errors import InvalidRequest, RequestTimeout, SoundstageError, Unavailable, Upstream, UpstreamTimeout
from core.http.connections import Answer, Connections
from core.http.disconnect import ClientDisconnected

RawHeaders = Sequence[tuple[bytes, bytes]]

HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
INTERNAL = frozenset(
    (
        b"x-soundstage-tenant",
        b"x-soundstage-priority",
        b"x-soundstage-deadline-ms",
        b"x-soundstage-run",
        b"x-soundstage-release",
        b"x-soundstage-wait",
        b"x-data-parallel-rank",
    )
)
"""What an orchestrator tells a worker: whose request it is and whose turn, what its picture's metadata says, how long
to wait for who left, which of an engine's copies answers. A caller who could say it would speak for others."""
CALLERS_OWN = frozenset((b"authorization", b"cookie", b"cookie2", b"x-api-key", b"api-key", b"idempotency-key"))
"""What would mean something to a worker, or to whoever reads its logs: a worker knows no callers."""
PROXIES = frozenset((b"forwarded", b"via", b"x-real-ip", b"true-client-ip"))
"""What proxies say of a caller; the worker is called by the studio."""
NOT_SENT = HOP_BY_HOP | INTERNAL | CALLERS_OWN | PROXIES | {b"host", b"content-length", b"expect", b"x-request-id"}
NOT_SENT_PREFIXES = (b"x-soundstage-", b"x-forwarded-", b"proxy-")
NOT_RETURNED = HOP_BY_HOP | {b"x-request-id", b"set-cookie", b"set-cookie2"}
NOT_RETURNED_PREFIXES = (b"x-ratelimit-", b"x-soundstage-")
"""Whose limits these are only the studio can say: an engine's would stand beside the caller's own."""
NOT_RETURNED_WITHOUT_BODY = NOT_RETURNED | {b"content-length"}
SWEEP_SECONDS = 0.5


@dataclass(frozen=True)
class Timeouts:
    """Seconds. `first_byte` covers queueing and prefill (for JSON, the whole generation); `idle` each later gap;
    `total` all of one answer."""

    connect: float = 5.0
    first_byte: float = 600.0
    idle: float = 120.0
    body: float = 60.0
    total: float = math.inf


class Sent(NamedTuple):
    """What was forwarded: the status, the answer's bytes, whether the answer was whole; if not, whether the client was
    too slow to take it, which is no fault of the engine's; and whether its time was over."""

    status: int
    bytes: int
    complete: bool
    not_taken: bool = False
    late: bool = False


class Passage:
    """How an answer passed: when its first and its last piece came on the loop's clock (0.0 where none did), in how
    many pieces. Who reads an answer as it passes, or takes something out of it, overrides the three methods."""

    __slots__ = ("began", "first", "last", "pieces", "status")

    def __init__(self) -> None:
        self.began = self.first = self.last = 0.0
        self.status = self.pieces = 0

    def begins(self, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """The headers as they pass on, names in lower case."""
        return headers

    def passes(self, chunk: bytes) -> bytes:
        """A piece as it passes on."""
        return chunk

    def rest(self) -> bytes:
        """What it holds back, where nothing more comes."""
        return b""


class _Exchange:
    """One request in flight: when it is due, and whether the sweeper ended it."""

    __slots__ = ("due", "expired", "idle", "sending", "task", "until")

    def __init__(self, task: "asyncio.Task[Any]", due: float, until: float, idle: float) -> None:
        self.task = task
        self.idle = idle
        self.due = due
        self.until = until
        self.expired = False
        self.sending = False


class Relay:
    """A pool of connections to engines. One sweeper enforces the timeouts, so no chunk pays for a timer."""

    def __init__(self, timeouts: Timeouts | None = None, *, sweep_seconds: float = SWEEP_SECONDS) -> None:
        self.timeouts = timeouts or Timeouts()
        self._sweep_seconds = sweep_seconds
        self._live: set[_Exchange] = set()

    async def __aenter__(self) -> "Relay":
        self._loop = asyncio.get_running_loop()
        self._connections = Connections(self.timeouts.connect)
        self._sweeper = self._loop.create_task(self._sweep())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._sweeper.cancel()
        await self._connections.close()

    @property
    def sweeper(self) -> "asyncio.Task[None]":
        """What ends requests whose time is up; it never ends itself."""
        return self._sweeper

    @property
    def connections(self) -> Connections:
        """The pool, for a client of its own."""
        return self._connections

    @property
    def session(self) -> aiohttp.ClientSession:
        """The same, for a request whose answer is wanted whole (a probe, a metric)."""
        return self._connections.session

    async def forward(
        self,
        method: str,
        url: URL,
        headers: RawHeaders,
        body: bytes | None,
        send: Send,
        accept: Callable[[Answer], None] | None = None,
        *,
        until: float = math.inf,
        limits: Timeouts | None = None,
        passage: Passage | None = None,
    ) -> Sent:
        """Send one request and pass its answer to `send`. `accept` sees the status and headers first, and may raise.
        `until`: when the answer must be whole, on the loop's clock. `limits`: others than the relay's own.
        `passage` is filled in when the answer has passed or broken off.

        Raises Unavailable (not connected, or closed before the first byte) and UpstreamTimeout only before anything
        was passed to `send`. Cancelling closes the connection to the engine at once.
        """
        task = asyncio.current_task()
        assert task is not None
        limits = limits or self.timeouts
        now = self._loop.time()
        until = min(until, now + limits.total)
        exchange = _Exchange(task, min(now + limits.first_byte, until), until, limits.idle)
        self._live.add(exchange)
        answer = None
        try:
            answer = await self._connections.send(method, url, headers, body, limits.connect)
            if accept is not None:
                accept(answer)
            passage = passage or Passage()
            passage.began, passage.status = now, answer.status
            return await self._pass_on(answer, exchange, send, passage)
        except (aiohttp.ClientError, HttpProcessingError, OSError, TimeoutError, UnicodeError) as exc:
            raise _unreachable(exc) from exc
        except asyncio.CancelledError:
            if not exchange.expired:
                raise
            task.uncancel()
            metrics.RELAY_ERRORS.labels("first_byte_timeout").inc()
            raise UpstreamTimeout("The engine did not answer in time.", code="upstream_timeout") from None
        finally:
            self._live.discard(exchange)
            if answer is not None:
                answer.close()  # a no-op after a whole answer: its connection went back to the pool

    async def _pass_on(self, answer: Answer, exchange: _Exchange, send: Send, passage: Passage) -> Sent:
        """The response line and headers, then every chunk as it comes."""
        due, idle = self._loop.time, exchange.idle
        never = NOT_RETURNED_WITHOUT_BODY if answer.status in (204, 304) else NOT_RETURNED
        passed = _end_to_end(answer.raw_headers, never)
        headers = passage.begins([pair for pair in passed if not pair[0].startswith(NOT_RETURNED_PREFIXES)])
        done, tail, more = 0, b"\n\n", True
        first, last, pieces = 0.0, 0.0, 0
        try:
            exchange.sending = True
            await send({"type": "http.response.start", "status": answer.status, "headers": headers})
            exchange.sending = False
            while more:
                chunk = await answer.content.readany()
                if not pieces:
                    first = due()
                pieces += 1
                more = not answer.content.at_eof()
                chunk = passage.passes(chunk) if more else passage.passes(chunk) + passage.rest()
                if more and not chunk:  # it is held back
                    exchange.due = min(due() + idle, exchange.until)
                    continue
                done += len(chunk)
                tail = chunk[-4:] if len(chunk) > 3 else (tail + chunk)[-4:]
                exchange.sending = True
                await send({"type": "http.response.body", "body": chunk, "more_body": more})
                exchange.sending = False
                last = due()
                exchange.due = min(last + idle, exchange.until)
        except (aiohttp.ClientError, asyncio.CancelledError) as exc:
            if isinstance(exc, asyncio.CancelledError):
                if not exchange.expired:
                    raise
                exchange.task.uncancel()
            metrics.RELAY_ERRORS.labels("idle_timeout" if exchange.expired else "broken_stream").inc()
            if not exchange.sending:
                held = passage.rest()
                takes = _takes_event(headers, (tail + held)[-4:])
                if held or takes:
                    body = held + error_event(exchange.expired) if takes else held
                    await send({"type": "http.response.body", "body": body, "more_body": not takes})
            return Sent(answer.status, done, complete=False, not_taken=exchange.sending, late=exchange.expired)
        finally:
            passage.first, passage.last, passage.pieces = first, last, pieces
        return Sent(answer.status, done, complete=True)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self._sweep_seconds)
            now = self._loop.time()
            for exchange in self._live:
                if exchange.due < now and not exchange.expired:
                    exchange.expired = True
                    exchange.task.cancel()


def request_headers(raw: RawHeaders, request_id: str, key: str | None) -> list[tuple[bytes, bytes]]:
    """The client's headers as the engine gets them, with the request id and the engine's own key.

    Raises InvalidRequest for one that is not UTF-8: engines disagree about what it would mean.
    """
    sent = [pair for pair in _end_to_end(raw, NOT_SENT) if not pair[0].startswith(NOT_SENT_PREFIXES)]
    for _, value in sent:
        if not value.isascii():
            _require_utf8(value)
    sent.append((b"x-request-id", request_id.encode()))
    if key is not None:
        sent.append((b"authorization", b"Bearer " + key.encode()))
    return sent


async def read_body(receive: Receive, timeout: float = Timeouts.body) -> bytes:
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
        raise RequestTimeout(f"The request body did not arrive within {timeout:g} s.", code="body_timeout") from None
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


def _end_to_end(raw: RawHeaders, never: frozenset[bytes]) -> list[tuple[bytes, bytes]]:
    """The headers that pass, names in lower case: none of `never` and none that `connection` names."""
    lowered = [(name.lower(), value) for name, value in raw]
    for name, value in lowered:
        if name == b"connection":
            never |= {token.strip().lower() for token in value.split(b",")}
    return [pair for pair in lowered if pair[0] not in never]


def _require_utf8(value: bytes) -> None:
    try:
        value.decode()
    except UnicodeDecodeError:
        raise InvalidRequest("A header holds bytes that are not UTF-8.", code="invalid_header") from None


def _unreachable(exc: BaseException) -> SoundstageError:
    """aiohttp's exceptions as ours: connecting failed, or the answer never began."""
    reason = "connect" if isinstance(exc, aiohttp.ClientConnectorError | TimeoutError) else "closed_before_first_byte"
    metrics.RELAY_ERRORS.labels(reason).inc()
    if isinstance(exc, HttpProcessingError | aiohttp.InvalidURL):
        return Upstream("The engine's answer was not HTTP.", code="bad_upstream_answer")
    return Unavailable("The engine is not reachable.", code="engine_unavailable", retry_after=2)


def _takes_event(headers: RawHeaders, tail: bytes) -> bool:
    """Whether one more plain event may end the answer. One that was cut inside an event cannot be mended: a client
    would read half an event as a whole one, so its connection is cut instead."""
    found = dict(headers)
    stream = found.get(b"content-type", b"").startswith(b"text/event-stream")
    plain = b"content-length" not in found and b"content-encoding" not in found
    return stream and plain and tail.endswith((b"\n\n", b"\r\n\r\n"))


def error_event(expired: bool) -> bytes:
    """An SSE event that OpenAI's SDKs raise from."""
    error: SoundstageError = (
        UpstreamTimeout("The engine stopped answering.", code="upstream_timeout")
        if expired
        else Upstream("The engine closed the stream before its end.", code="upstream_closed")
    )
    return b"data: " + error.body() + b"\n\n"
