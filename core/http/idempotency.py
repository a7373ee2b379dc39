"""`Idempotency-Key`: the same request again has the same key, and gets the same answer. How every service reads it;
core/keyed_calls.py has what a worker remembers."""

import re

from core.errors import Conflict, InvalidRequest

HEADER = "Idempotency-Key"
REPEATED = "x-soundstage-repeated"
"""Of an answer: its worker made, or makes, it for an earlier request with the same key."""
_IS_KEY = re.compile(r"[\x21-\x7e]{1,255}").fullmatch


def checked(given: str | None) -> str | None:
    """The key, None where none was sent. Raises InvalidRequest."""
    if given is None:
        return None
    if not _IS_KEY(given):
        raise InvalidRequest(
            f"{HEADER} is 1 to 255 visible ASCII characters.", param=HEADER, code="invalid_idempotency_key"
        )
    return given


def reused() -> Conflict:
    """What is answered to another request with the key of one that is remembered."""
    return Conflict(f"This {HEADER} was used for another request.", param=HEADER, code="idempotency_key_reused")
