"""Headers that say one thing: where a request says two, nobody knows which was meant. And those by which a body would
be read in another way than it is judged."""

import re
from collections.abc import Iterable

from core.errors import InvalidRequest

ONCE = frozenset(
    (
        *(b"authorization", b"content-type", b"idempotency-key", b"last-event-id", b"traceparent"),
        *(b"x-priority", b"x-prove", b"x-request-id", b"x-request-timeout", b"x-session-id"),
    )
)


def refuse_contradiction(headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Raises InvalidRequest where one of these is sent twice with different values."""
    seen: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in ONCE and seen.setdefault(name, value) != value:
            shown = name.decode().title()
            raise InvalidRequest(f"{shown} is sent twice.", param=shown, code="header_sent_twice")


_CHARSET = re.compile(rb"charset\s*+=\s*+[\"']?([^\"';\s]*+)", re.IGNORECASE).findall
_UTF8 = frozenset((b"utf-8", b"utf8", b"us-ascii"))


def refuse_other_codings(headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Raises InvalidRequest where a body that is passed on is said to be packed, or of another charset than UTF-8: here
    it is read as it stands, and who gets it next might not."""
    for name, value in headers:
        if name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            raise InvalidRequest("Send the body as it is.", param="Content-Encoding", code="content_encoded")
        if name == b"content-type" and not _is_utf8(value.lower()):
            raise InvalidRequest("A body is UTF-8.", param="Content-Type", code="invalid_content_type")


def _is_utf8(kind: bytes) -> bool:
    return b"charset" not in kind or (b"charset*" not in kind and _UTF8.issuperset(_CHARSET(kind)))
