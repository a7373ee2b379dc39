"""The shell around every service: request id, body limit, access log, metrics, error envelope, health.

One ASGI application: `Shell` → raw routes by exact path (the hot ones) → the FastAPI application.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any, NamedTuple

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from core import metrics
from core.access_log import AccessLog
from core.disconnect import ClientDisconnected
from core.errors import (
    BY_STATUS,
    InvalidRequest,
    MethodNotAllowed,
    Overloaded,
    PayloadTooLarge,
    RequestTimeout,
    SoundstageError,
    Unavailable,
    internal,
)
from core.ids import new_id
from core.settings import Settings

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

log = logging.getLogger(__name__)

CLIENT_CLOSED_REQUEST = 499
_OPERATING = frozenset({"/healthz", "/readyz", "/metrics"})
_ID_SAFE = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:")


class Readiness(NamedTuple):
    """Whether the service can serve now, and what a person wants to know about it."""

    ok: bool
    detail: Mapping[str, Any]


async def always_ready() -> Readiness:
    return Readiness(True, {})


class Shell:
    """Pure ASGI: gives each request an id and a bounded body, and records what became of it."""

    def __init__(
        self,
        name: str,
        app: ASGIApp,
        routes: Mapping[str, Mapping[str, ASGIApp]],
        *,
        max_body: int,
        body_seconds: float,
        max_requests: int,
        access: AccessLog,
        authorise: Callable[[Scope], None] | None,
    ) -> None:
        self._name = name
        self._app = app
        self._routes = routes
        self._max_body = max_body
        self._body_seconds = body_seconds
        self._max_requests = max_requests
        self._running = 0
        self._access = access
        self._authorise = authorise
        self._on_stop: list[Callable[[], object]] = []
        self.stopping = False
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
            if self._running > self._max_requests and scope["path"] not in _OPERATING:
                raise Overloaded("Too many requests are being answered.", code="too_many_requests", retry_after=1)
            if self._authorise is not None:
                self._authorise(scope)
            if length > self._max_body:
                raise _too_large(self._max_body)
            bounded = receive if length >= 0 else _bounded(receive, self._max_body)
            handler = self._route(scope)
            if handler is self._app:  # a raw handler bounds the time itself, where it reads
                bounded = _in_time(bounded, self._body_seconds)
            await handler(scope, bounded, reply)
        except ClientDisconnected:
            status = CLIENT_CLOSED_REQUEST
        except SoundstageError as exc:
            await _fail(scope, reply, status, exc)
        except asyncio.CancelledError:  # the time that a stop gives has run out
            await _fail(scope, reply, status, _stopping())
            raise
        except Exception:  # the outermost loop: log, fail this request, carry on
            log.exception("request failed", extra={"request_id": request_id, "path": scope["path"]})
            await _fail(scope, reply, status, internal())
        finally:
            self._running -= 1
            if status == CLIENT_CLOSED_REQUEST:
                self._disconnects.inc()
            outcome = _outcome(scope, status)
            self._ended[outcome].inc()
            self._record(scope, status, outcome, time.perf_counter() - started)

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


def create_service(
    name: str,
    api: FastAPI,
    settings: Settings,
    *,
    routes: Mapping[str, Mapping[str, ASGIApp]] | None = None,
    ready: Callable[[], Awaitable[Readiness]] = always_ready,
    access: AccessLog | None = None,
    authorise: Callable[[Scope], None] | None = None,
) -> Shell:
    """Put the shell around `api`; `routes` maps an exact path and method to a raw ASGI handler.

    `authorise` raises where a request may not enter at all (a worker's key).
    Adds GET /healthz (the process lives), /readyz (200 or 503 by `ready`) and /metrics (Prometheus).
    """
    _add_error_handlers(api)
    shell = Shell(
        name,
        api,
        routes or {},
        max_body=settings.max_body_bytes,
        body_seconds=settings.body_seconds,
        max_requests=settings.max_requests,
        access=access or AccessLog(name),
        authorise=authorise,
    )
    _add_operating(api, shell, ready)
    return shell


def _add_error_handlers(api: FastAPI) -> None:
    async def ours(_: Request, exc: Exception) -> Response:
        assert isinstance(exc, SoundstageError)
        return error_response(exc)

    async def invalid(_: Request, exc: Exception) -> Response:
        assert isinstance(exc, RequestValidationError)
        # FastAPI puts body, query, path or header before the field's own path.
        return error_response(from_validation({**error, "loc": error["loc"][1:]} for error in exc.errors()))

    async def http(_: Request, exc: Exception) -> Response:
        assert isinstance(exc, HTTPException)
        if isinstance(exc.__cause__, SoundstageError):
            return error_response(exc.__cause__)  # raised while FastAPI read the body: FastAPI makes it a 400
        kind = BY_STATUS.get(exc.status_code, InvalidRequest if exc.status_code < 500 else SoundstageError)
        code = {404: "not_found", 405: "method_not_allowed"}.get(exc.status_code)
        error = kind(str(exc.detail), code=code)
        return JSONResponse(error.envelope(), exc.status_code, headers=exc.headers)

    async def uncaught(_: Request, exc: Exception) -> Response:
        """Starlette raises it again, also where the answer has begun: the shell says what became of the request."""
        if isinstance(exc, ClientDisconnected):
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        return error_response(internal())

    api.add_exception_handler(SoundstageError, ours)
    api.add_exception_handler(RequestValidationError, invalid)
    api.add_exception_handler(HTTPException, http)
    api.add_exception_handler(Exception, uncaught)


def _add_operating(api: FastAPI, shell: Shell, ready: Callable[[], Awaitable[Readiness]]) -> None:
    @api.get("/healthz", tags=["operating"])
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @api.get("/readyz", tags=["operating"])
    async def readyz() -> Response:
        if shell.stopping:
            return JSONResponse({"ready": False, "stopping": True}, 503)
        state = await ready()
        return JSONResponse({"ready": state.ok, **state.detail}, 200 if state.ok else 503)

    @api.get("/metrics", tags=["operating"])
    async def exported() -> Response:
        metrics.TASKS.set(len(asyncio.all_tasks()))
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


def error_response(exc: SoundstageError) -> Response:
    headers = {k.decode(): v.decode() for k, v in exc.headers()}
    return JSONResponse(exc.envelope(), exc.status, headers=headers)


def from_validation(errors: Iterable[Mapping[str, Any]], kind: type[InvalidRequest] = InvalidRequest) -> InvalidRequest:
    """The first complaint of pydantic as our error, with the field's path as `param`."""
    first = next(iter(errors))
    if first["type"] == "json_invalid":
        return InvalidRequest("The body is not valid JSON.", code="json_invalid")
    param = ".".join(map(str, first["loc"])) or None
    return kind(f"{param or 'body'}: {first['msg']}", param=param, code=str(first["type"]))


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
    """The caller's request id if it is safe to log, else a new one; and Content-Length, or -1."""
    request_id, length = b"", -1
    for name, value in headers:
        if name == b"x-request-id":
            request_id = value
        elif name == b"content-length" and value.isdigit():
            length = int(value)
    if not 0 < len(request_id) <= 128 or not _ID_SAFE.issuperset(request_id):
        return new_id(), length
    return request_id.decode(), length


def _bounded(receive: Receive, limit: int) -> Receive:
    """For a body of no stated length: count it as it comes."""
    seen = 0

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            raise _too_large(limit)
        return message

    return counted


def _outcome(scope: Scope, status: int) -> str:
    """What became of a request. A handler marks an answer that broke off after its head with `scope["broken"]`."""
    if status == CLIENT_CLOSED_REQUEST:
        return "cancelled"
    return "failed" if status >= 500 or status == 0 or "broken" in scope else "finished"


def _stopping() -> Unavailable:
    return Unavailable("The server is stopping.", code="server_stopping", retry_after=1)


def _in_time(receive: Receive, seconds: float) -> Receive:
    """For who reads a body at its own pace: the whole of it must come within so long."""
    until, whole = asyncio.get_running_loop().time() + seconds, False

    async def timed() -> Message:
        nonlocal whole
        if whole:
            return await receive()  # a wait for the client's leaving
        try:
            async with asyncio.timeout_at(until):
                message = await receive()
        except TimeoutError:
            text = f"The request body did not arrive within {seconds:g} s."
            raise RequestTimeout(text, code="body_timeout") from None
        whole = not message.get("more_body")
        return message

    return timed


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"The request body is larger than {limit} bytes.", code="body_too_large")
