"""A service: the shell around its raw routes and its FastAPI application; error envelope, health, readiness, metrics.

One ASGI application: `Shell` → raw routes by exact path (the hot ones) → the FastAPI application.
"""

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from core.errors import BY_STATUS, InvalidRequest, SoundstageError, internal
from core.http.access_log import AccessLog
from core.http.disconnect import ClientDisconnected
from core.http.shell import CLIENT_CLOSED_REQUEST, Authorise, Explain, Shell
from core.settings import Settings
from core.watchers import Watchers


class Readiness(NamedTuple):
    """Whether the service can serve now, and what a person wants to know about it."""

    ok: bool
    detail: Mapping[str, Any]


async def always_ready() -> Readiness:
    return Readiness(True, {})


def create_service(
    name: str,
    api: FastAPI,
    settings: Settings,
    *,
    routes: Mapping[str, Mapping[str, ASGIApp]] | None = None,
    ready: Callable[[], Awaitable[Readiness]] = always_ready,
    access: AccessLog | None = None,
    authorise: Authorise | None = None,
    large: Collection[str] = (),
    watchers: Watchers | None = None,
    explain: Explain = lambda _: None,
) -> Shell:
    """Put the shell around `api`; `routes` maps an exact path and method to a raw ASGI handler.

    `authorise` raises where a request may not enter; it is asked before any of the body is read. `large`: the paths of
    `api` whose bodies may be as large as the settings say; those of its other paths have at most CONTROL_BODY bytes.
    `watchers`: the background tasks of its lifespan; one that ends ends the process. `explain`: what a caller is told
    of an exception that a raw route raises; None: that it is a bug.
    Adds GET /healthz (the process lives and none of these has ended), /readyz (200 or 503 by `ready`) and /metrics
    (Prometheus).
    """
    _add_error_handlers(api)
    shell = Shell(
        name,
        api,
        routes or {},
        settings,
        large=frozenset(large),
        access=access or AccessLog(name),
        authorise=authorise,
        watchers=watchers or Watchers(),
        explain=explain,
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
        if isinstance(exc.__cause__, UnicodeDecodeError):
            return error_response(InvalidRequest("The body is not UTF-8.", code="json_invalid"))
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
    async def healthz(response: Response) -> dict[str, str]:
        if shell.watchers.failed is None:
            return {"status": "ok"}
        response.status_code = 503
        return {"status": "failed", "task": shell.watchers.failed}

    @api.get("/readyz", tags=["operating"])
    async def readyz() -> Response:
        if shell.watchers.failed is not None:
            return JSONResponse({"ready": False, "failed": shell.watchers.failed}, 503)
        if shell.stopping:
            return JSONResponse({"ready": False, "stopping": True}, 503)
        state = await ready()
        return JSONResponse({"ready": state.ok, **state.detail}, 200 if state.ok else 503)

    @api.get("/metrics", tags=["operating"])
    async def exported() -> Response:
        return Response(await shell.exposition(), media_type=CONTENT_TYPE_LATEST)


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
