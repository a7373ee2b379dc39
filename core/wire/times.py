"""A time that a caller sends: the one place that says what it may be."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime

FIRST_YEAR, LAST_YEAR = 1970, 9000


def _in_utc(moment: datetime) -> datetime:
    try:
        found = moment.astimezone(UTC)
    except (OverflowError, ValueError) as exc:
        raise ValueError(f"a year from {FIRST_YEAR} to {LAST_YEAR}") from exc
    if not FIRST_YEAR <= found.year <= LAST_YEAR:
        raise ValueError(f"a year from {FIRST_YEAR} to {LAST_YEAR}")
    return found


Moment = Annotated[AwareDatetime, AfterValidator(_in_utc)]
"""With its zone, in UTC from here on. One without a zone would be another moment on each machine: it is refused."""
