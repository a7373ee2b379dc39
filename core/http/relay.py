"""Forward a request to an engine and its answer to the client: the same bytes both ways, as they come.

Which headers pass stands in end_to_end.py. Nothing is buffered, nothing decompressed, nothing re-encoded. Before the
first byte an error is raised, so the caller may try another engine; after it an error is an event in the stream.
"""

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError
from starlette.types import Send
from yarl import URL

from core import metrics
from core.errors import SoundstageError, Unavailable, Upstream, UpstreamTimeout
from core.http.body import BODY_SECONDS
from core.http.connections import Answer, Connections
from core.http.end_to_end import RawHeaders, answer_headers

SWEEP_SECONDS = 0.5


@dataclass(frozen=True)
class Timeouts:
    """Seconds. `first_byte` covers queueing and prefill (for JSON, the whole generation); `idle` each later gap;
    `total` all of one answer."""

    connect: float = 5.0
    first_byte: float = 600.0
    idle: float = 120.0
    body: float = BODY_SECONDS
    total: float = math.inf


class Outcome(NamedTuple):
    """What was forwarded: the status, the answer's bytes, whether the answer was whole; if not, whether the client was
    too slow to take it, which is no fault of the engine's; and whether its time was over."""

    status: int
    bytes: int
    complete: bool
    not_taken: bool = False
    late: bool = False


class AnswerFilter:
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
        through: AnswerFilter | None = None,
    ) -> Outcome:
        """Send one request and pass its answer to `send`. `accept` sees the status and headers first, and may raise.
        `until`: when the answer must be whole, on the loop's clock. `limits`: others than the relay's own.
        `through` is filled in when the answer has passed or broken off.

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
            through = through or AnswerFilter()
            through.began, through.status = now, answer.status
            return await self._pass_on(answer, exchange, send, through)
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

    async def _pass_on(self, answer: Answer, exchange: _Exchange, send: Send, through: AnswerFilter) -> Outcome:
        """The response line and headers, then every chunk as it comes."""
        due, idle = self._loop.time, exchange.idle
        headers = through.begins(answer_headers(answer.status, answer.raw_headers))
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
                chunk = through.passes(chunk) if more else through.passes(chunk) + through.rest()
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
                held = through.rest()
                takes = _takes_event(headers, (tail + held)[-4:])
                if held or takes:
                    body = held + error_event(exchange.expired) if takes else held
                    await send({"type": "http.response.body", "body": body, "more_body": not takes})
            return Outcome(answer.status, done, complete=False, not_taken=exchange.sending, late=exchange.expired)
        finally:
            through.first, through.last, through.pieces = first, last, pieces
        return Outcome(answer.status, done, complete=True)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self._sweep_seconds)
            now = self._loop.time()
            for exchange in self._live:
                if exchange.due < now and not exchange.expired:
                    exchange.expired = True
                    exchange.task.cancel()


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
