"""What a caller is told where the database does not answer, or refuses what it was given: on every route, one way."""

import logging

import psycopg
from fastapi import FastAPI, Request
from starlette.responses import Response

from core.db.errors import told_caller
from core.errors import SoundstageError, internal
from core.service import error_response

log = logging.getLogger(__name__)

OF_DATABASE = (psycopg.OperationalError, psycopg.DataError, UnicodeEncodeError)
"""A lost connection, or none that came free in time; a value that Postgres cannot hold, refused by it or before it."""


def error_of(exc: BaseException) -> SoundstageError | None:
    """The error for the caller, None where it is none of these; the reason goes to the log."""
    found = told_caller(exc)
    if found is not None:
        log.warning("the database does not take a request", extra={"code": found.code, "reason": str(exc)[:300]})
    return found


def add_away(api: FastAPI) -> None:
    """A 503 that says to come again, or a 400: no bug of ours."""

    async def away(_: Request, exc: Exception) -> Response:
        return error_response(error_of(exc) or internal())

    for kind in OF_DATABASE:
        api.add_exception_handler(kind, away)
