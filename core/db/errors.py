"""What a failure of Postgres means: it is away, or it refuses what it was given. One place for both."""

import psycopg
import psycopg_pool

from core.errors import InvalidRequest, SoundstageError, Unavailable

AWAY_CODES = frozenset(("database_away", "database_unavailable"))
"""Of errors that mean the same, for who was to be told."""
DATABASE_AWAY = (psycopg.OperationalError, psycopg_pool.PoolTimeout, psycopg_pool.TooManyRequests, OSError)

_REFUSED = ("22", "23", "54")  # SQLSTATE classes: data, integrity, limits (an index entry too long)


def is_refusal(exc: BaseException) -> bool:
    """Whether the same value would be refused again: NUL or half a surrogate pair in a text, a number out of range."""
    if isinstance(exc, psycopg.Error):
        return (exc.sqlstate or "")[:2] in _REFUSED or isinstance(exc, psycopg.DataError | psycopg.IntegrityError)
    return isinstance(exc, UnicodeEncodeError | OverflowError | RecursionError)


def told_caller(exc: BaseException) -> SoundstageError | None:
    """The error for whoever sent the request; None where it is none of the database's, or a bug of ours."""
    limit = isinstance(exc, psycopg.Error) and (exc.sqlstate or "").startswith("54")
    if limit or isinstance(exc, psycopg.DataError | UnicodeEncodeError):
        return InvalidRequest(
            "The request holds something that cannot be stored: a NUL character, half a surrogate pair, or a number or"
            " a text that is too large.",
            code="not_storable",
        )
    if isinstance(exc, psycopg.OperationalError):
        return Unavailable("The database does not answer.", code="database_unavailable", retry_after=2)
    return None
