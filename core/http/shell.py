"""The shell around a service, in pure ASGI: a request id, a bounded body, a record of what became of each request."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import msgspec
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core import metrics
from core.errors import (
    MethodNotAllowed,
    Overloaded,
    SoundstageError,
    Unavailable,
    internal,
)
from core.http.access_log import AccessLog
from core.http.body import too_large, within_bytes, within_time, within_values
from core.http.body_budget import SMALL_BODY, BodyBudget
from core.http.disconnect import ClientDisconnected
from core.http.exposition import of_this_process
from core.http.headers import refuse_contradiction
from core.ids import new_id
from core.json.size import CONTROL_VALUES
from core.paths import settle_path
from core.settings import Settings
from core.watchers import Watchers

Authorise = Callable[[Scope], Awaitable[None]]
Explain = Callable[[Exception], SoundstageError | None]

log = logging.getLogger(__name__)

CLIENT_CLOSED_REQUEST = 499
CONTROL_BODY = 1 << 20
"""Most bytes of a body that FastAPI parses on the event loop: it holds the loop for so long as it parses."""
MAX_ENTERING = 64
"""Requests with a body over SMALL_BODY, or of no stated length, whose key may be looked up at once."""
_OPERATING = frozenset({"/healthz", "/readyz", "/metrics"})
_ID_SAFE = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:")


class Shell:
    """Pure ASGI: gives each request an id and a bounded body, and records what became of it."""

    def __init__(
        self,
        name: str,
        app: ASGIApp,
        routes: Mapping[str, Mapping[str, ASGIApp]],
        settings: Settings,
        *,
        large: frozenset[str],
        access: AccessLog,
        authorise: Authorise | None,
        watchers: Watchers,
        explain: Explain,
    ) -> None:
        self._name = name
        self._app = app
        self._routes = routes
        self._settings = settings
        self._bodies = BodyBudget(settings.max_bodies_bytes, settings.max_body_bytes)
        self._large = large
        self._running = self._entering = 0
        self._access = access
        self._authorise = authorise
        self.exposition: Callable[[], Awaitable[bytes]] = of_this_process
        """What /metrics answers."""
        self._on_stop: list[Callable[[], object]] = []
        self.stopping = False
        self.watchers = watchers
        self._explain = explain
        metrics.IN_FLIGHT.labels(name).set_function(lambda: self._running)
        self._disconnects = metrics.CANCELLED.labels(name)
        self._accepted = metrics.ACCEPTED.labels(name)
        self._ended = {outcome: metrics.ENDED.labels(name, outcome) for outcome in ("finished", "failed", "cancelled")}
        self._counters: dict[tuple[str, int], tuple[Any, Any]] = {}

    def on_stop(self, listener: Callable[[], object]) -> None:
        """It is called once, when the service is told to stop and still answers."""
        self._on_stop.append(listener)

    def stop(self) -> None:
        """The service will stop: from now on /readyz says no, and every answer closes its connection."""
        if not self.stopping:
            self.stopping = True
            for listener in self._on_stop:
                listener()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            self._access.flush()  # the lifespan has ended
            return
        started = time.perf_counter()
        request_id, length = _read_headers(scope["headers"])
        scope["request_id"] = request_id
        id_header = (b"x-request-id", request_id.encode())
        status = 0

        async def reply(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), id_header]
                if self.stopping:
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        self._running += 1
        self._accepted.inc()
        try:
            if self._running > self._settings.max_requests and scope["path"] not in _OPERATING:
                raise Overloaded("Too many requests are being answered.", code="too_many_requests", retry_after=1)
            refuse_contradiction(scope["headers"])
            await self._answer(scope, receive, reply, length)
        except (ClientDisconnected, ClientDisconnect):  # the second: within its body
            status = CLIENT_CLOSED_REQUEST
        except SoundstageError as exc:
            await _fail(scope, reply, status, exc)
        except asyncio.CancelledError:  # the time that a stop gives has run out
            await _fail(scope, reply, status, _stopping())
            raise
        except Exception as exc:  # the outermost loop: log, fail this request, carry on
            known = self._explain(exc)
            if known is None:
                log.exception("request failed", extra={"request_id": request_id, "path": scope["path"]})
            await _fail(scope, reply, status, known or internal())
        finally:
            self._running -= 1
            if status == CLIENT_CLOSED_REQUEST:
                self._disconnects.inc()
            outcome = _outcome(scope, status)
            self._ended[outcome].inc()
            self._record(scope, status, outcome, time.perf_counter() - started)

    async def _answer(self, scope: Scope, receive: Receive, reply: Send, length: int) -> None:
        settle_path(scope)
        await self._enter(scope, length)
        handler = self._route(scope)
        limit = self._limit(scope["path"], handler)
        if length > limit:
            raise too_large(limit)
        with self._bodies.share(scope.get("key_id")) as share:
            share.reach(length)
            bounded = receive if length >= 0 else within_bytes(receive, limit, share)
            if handler is self._app:  # a raw handler bounds the time itself, where it reads
                bounded = within_time(bounded, self._settings.body_seconds)
                if not 0 <= length <= CONTROL_VALUES and scope["path"] not in self._large:
                    bounded = within_values(bounded)
            await handler(scope, bounded, reply)

    async def _enter(self, scope: Scope, length: int) -> None:
        """Whether the request may enter, before a byte of its body is read. Raises what `authorise` raises."""
        if self._authorise is None:
            return
        if 0 <= length <= SMALL_BODY:
            await self._authorise(scope)
            return
        if self._entering >= MAX_ENTERING:
            text = "Too many requests with a large body wait for their key to be looked up."
            raise Unavailable(text, code="too_many_entering", retry_after=1)
        self._entering += 1
        try:
            await self._authorise(scope)
        finally:
            self._entering -= 1

    def _limit(self, path: str, handler: ASGIApp) -> int:
        """Most bytes of the body."""
        most = self._settings.max_body_bytes
        return min(CONTROL_BODY, most) if handler is self._app and path not in self._large else most

    def _route(self, scope: Scope) -> ASGIApp:
        methods = self._routes.get(scope["path"])
        if methods is None:
            return self._app
        scope["route_path"] = scope["path"]
        found = methods.get(scope["method"])
        if found is None:
            raise MethodNotAllowed("Method Not Allowed", code="method_not_allowed", allow=methods)
        return found

    def _record(self, scope: Scope, status: int, outcome: str, seconds: float) -> None:
        route = str(scope.get("route_path") or getattr(scope.get("route"), "path", "unmatched"))
        found = self._counters.get((route, status))
        if found is None:
            found = (
                metrics.REQUESTS.labels(self._name, route, str(status)),
                metrics.DURATION.labels(self._name, route),
            )
            self._counters[route, status] = found
        found[0].inc()
        found[1].observe(seconds)
        if route not in _OPERATING:
            self._access.add(scope, status, outcome, seconds)


async def send_error(send: Send, exc: SoundstageError) -> None:
    """Answer with the envelope, on raw ASGI."""
    body = exc.body()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *exc.headers()]
    await send({"type": "http.response.start", "status": exc.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _fail(scope: Scope, reply: Send, status: int, exc: SoundstageError) -> None:
    """Answer with the envelope; an answer that has begun is marked as one that broke off."""
    if status:
        scope["broken"] = True
    else:
        await send_error(reply, exc)


async def send_json(send: Send, value: Any, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
    """Answer 200 with a JSON body, on raw ASGI."""
    body = msgspec.json.encode(value)
    start = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *headers]
    await send({"type": "http.response.start", "status": 200, "headers": start})
    await send({"type": "http.response.body", "body": body})


def _read_headers(headers: Iterable[tuple[bytes, bytes]]) -> tuple[str, int]:
    """The caller's request id if it is safe to log, else a new one; and the length of the body, -1 if not stated."""
    request_id, length = b"", 0
    for name, value in headers:
        if name == b"x-request-id":
            request_id = value
        elif name == b"content-length":
            length = int(value) if value.isdigit() else -1
        elif name == b"transfer-encoding":
            length = -1
    if not 0 < len(request_id) <= 128 or not _ID_SAFE.issuperset(request_id):
        return new_id(), length
    return request_id.decode(), length


def _outcome(scope: Scope, status: int) -> str:
    """What became of a request. A handler marks an answer that broke off after its head with `scope["broken"]`."""
    if status == CLIENT_CLOSED_REQUEST:
        return "cancelled"
    return "failed" if status >= 500 or status == 0 or "broken" in scope else "finished"


def _stopping() -> Unavailable:
    return Unavailable("The server is stopping.", code="server_stopping", retry_after=1)
