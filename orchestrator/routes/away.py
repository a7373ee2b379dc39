"""What a caller is told where a route needs the database and it does not answer."""

import logging

import psycopg
from fastapi import FastAPI, Request
from starlette.responses import Response

from core.errors import Unavailable
from core.service import error_response

log = logging.getLogger(__name__)


def told(request: Request, exc: Exception) -> Unavailable:
    """The error for the caller; the reason goes to the log."""
    log.warning("the database does not answer", extra={"path": request.url.path, "reason": str(exc)})
    return Unavailable("The database does not answer.", code="database_unavailable", retry_after=2)


def add_away(api: FastAPI) -> None:
    """A lost connection, or none that came free in time, is a 503 that says to come again: no bug of ours."""

    async def away(request: Request, exc: Exception) -> Response:
        return error_response(told(request, exc))

    api.add_exception_handler(psycopg.OperationalError, away)
