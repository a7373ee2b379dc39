"""Headers that say one thing: where a request says two, nobody knows which was meant."""

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
