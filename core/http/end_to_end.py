"""Which headers pass: of a request to an engine, and of its answer to the client.

What does not pass: hop-by-hop headers (those that `connection` names too), `host`, `expect`, `content-length` (set
anew, same value; none on an answer that has no body), `x-request-id` (the shell's own is sent), what is the client's
own (CALLERS_OWN) or a proxy's (PROXIES), and what is an orchestrator's to say (INTERNAL, all `x-soundstage-`). An
engine's cookies and limits do not come back.
"""

from collections.abc import Sequence

from core.errors import InvalidRequest

RawHeaders = Sequence[tuple[bytes, bytes]]

HOP_BY_HOP = frozenset(
    (
        *(b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade"),
        *(b"proxy-authenticate", b"proxy-authorization", b"proxy-connection"),
    )
)
INTERNAL = frozenset(
    (
        b"x-soundstage-tenant",
        b"x-soundstage-priority",
        b"x-soundstage-deadline-ms",
        b"x-soundstage-run",
        b"x-soundstage-release",
        b"x-soundstage-wait",
        b"x-data-parallel-rank",
    )
)
"""What an orchestrator tells a worker: whose request it is and whose turn, what its picture's metadata says, how long
to wait for who left, which of an engine's copies answers. A caller who could say it would speak for others."""
CALLERS_OWN = frozenset((b"authorization", b"cookie", b"cookie2", b"x-api-key", b"api-key", b"idempotency-key"))
"""What would mean something to a worker, or to whoever reads its logs: a worker knows no callers."""
PROXIES = frozenset((b"forwarded", b"via", b"x-real-ip", b"true-client-ip"))
"""What proxies say of a caller; the worker is called by the studio."""
NOT_SENT = HOP_BY_HOP | INTERNAL | CALLERS_OWN | PROXIES | {b"host", b"content-length", b"expect", b"x-request-id"}
NOT_SENT_PREFIXES = (b"x-soundstage-", b"x-forwarded-", b"proxy-")
NOT_RETURNED = HOP_BY_HOP | {b"x-request-id", b"set-cookie", b"set-cookie2"}
NOT_RETURNED_PREFIXES = (b"x-ratelimit-", b"x-soundstage-")
"""Whose limits these are only the studio can say: an engine's would stand beside the caller's own."""
NOT_RETURNED_WITHOUT_BODY = NOT_RETURNED | {b"content-length"}


def request_headers(raw: RawHeaders, request_id: str, key: str | None) -> list[tuple[bytes, bytes]]:
    """The client's headers as the engine gets them, with the request id and the engine's own key.

    Raises InvalidRequest for one that is not UTF-8: engines disagree about what it would mean.
    """
    sent = [pair for pair in _end_to_end(raw, NOT_SENT) if not pair[0].startswith(NOT_SENT_PREFIXES)]
    for _, value in sent:
        if not value.isascii():
            _require_utf8(value)
    sent.append((b"x-request-id", request_id.encode()))
    if key is not None:
        sent.append((b"authorization", b"Bearer " + key.encode()))
    return sent


def answer_headers(status: int, raw: RawHeaders) -> list[tuple[bytes, bytes]]:
    """An engine's headers as the client gets them, names in lower case."""
    passed = _end_to_end(raw, NOT_RETURNED_WITHOUT_BODY if status in (204, 304) else NOT_RETURNED)
    return [pair for pair in passed if not pair[0].startswith(NOT_RETURNED_PREFIXES)]


def _end_to_end(raw: RawHeaders, never: frozenset[bytes]) -> list[tuple[bytes, bytes]]:
    """The headers that pass, names in lower case: none of `never` and none that `connection` names."""
    lowered = [(name.lower(), value) for name, value in raw]
    for name, value in lowered:
        if name == b"connection":
            never |= {token.strip().lower() for token in value.split(b",")}
    return [pair for pair in lowered if pair[0] not in never]


def _require_utf8(value: bytes) -> None:
    try:
        value.decode()
    except UnicodeDecodeError:
        raise InvalidRequest("A header holds bytes that are not UTF-8.", code="invalid_header") from None
