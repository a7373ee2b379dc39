"""One exception tree, and the one place that turns an exception into OpenAI's error envelope.

SoundstageError
├── InvalidRequest          400  invalid_request_error
│   ├── Unauthenticated     401  authentication_error
│   ├── Forbidden           403  permission_error
│   ├── NotFound            404
│   ├── MethodNotAllowed    405                         Allow
│   ├── RequestTimeout      408
│   ├── Conflict            409
│   ├── PayloadTooLarge     413
│   ├── HeadersTooLarge     431
│   ├── ContentPolicy       422  content_policy
│   └── Unprocessable       422                         a wrong form, on the paths that always said 422
├── Overloaded              429  rate_limit_error       Retry-After
├── Upstream                502  upstream_error
│   └── UpstreamTimeout     504
└── Unavailable             503  service_unavailable    Retry-After
"""

import math
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import msgspec


class SoundstageError(Exception):
    """An error that a caller may see: a status, an OpenAI error type and a message that is safe to show."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"

    def __init__(
        self, message: str, *, code: str | None = None, param: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.param = param
        self.retry_after = retry_after  # seconds

    def envelope(self) -> dict[str, Any]:
        """The body: {"error": {"message", "type", "param", "code"}}."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def body(self) -> bytes:
        return msgspec.json.encode(self.envelope())

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Retry-After in whole seconds, rounded up, at least 1; nothing where no wait is known."""
        if self.retry_after is None:
            return []
        return [(b"retry-after", str(max(1, math.ceil(self.retry_after))).encode())]


class InvalidRequest(SoundstageError):
    status = 400
    type = "invalid_request_error"


class Unauthenticated(InvalidRequest):
    status = 401
    type = "authentication_error"


class Forbidden(InvalidRequest):
    status = 403
    type = "permission_error"


class NotFound(InvalidRequest):
    status = 404


class MethodNotAllowed(InvalidRequest):
    status = 405

    def __init__(self, message: str, *, allow: Iterable[str] = (), **details: Any) -> None:
        super().__init__(message, **details)
        self._allow = ", ".join(allow)

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Which methods the path has, where it is known."""
        return [*super().headers(), *([(b"allow", self._allow.encode())] if self._allow else [])]


class RequestTimeout(InvalidRequest):
    """The client did not send its request in time."""

    status = 408


class Conflict(InvalidRequest):
    status = 409


class PayloadTooLarge(InvalidRequest):
    status = 413


class HeadersTooLarge(InvalidRequest):
    status = 431


class ContentPolicy(InvalidRequest):
    """A refusal by policy: a reason, never an echo of what was refused."""

    status = 422
    type = "content_policy"


class Unprocessable(InvalidRequest):
    """A body of the wrong form, on the older paths: their callers know it as 422. Everywhere else it is a 400."""

    status = 422


class Overloaded(SoundstageError):
    status = 429
    type = "rate_limit_error"


class Upstream(SoundstageError):
    """A worker or an engine answered something that cannot be passed on."""

    status = 502
    type = "upstream_error"


class UpstreamTimeout(Upstream):
    status = 504


class Unavailable(SoundstageError):
    status = 503
    type = "service_unavailable"


def _kinds(kind: type[SoundstageError]) -> Iterator[type[SoundstageError]]:
    for inner in kind.__subclasses__():
        yield inner
        yield from _kinds(inner)


BY_STATUS = {kind.status: kind for kind in _kinds(SoundstageError) if kind is not Unprocessable}


def internal() -> SoundstageError:
    """What a caller sees of a bug: nothing of its inside."""
    return SoundstageError("The server failed to answer; the request id names the log line.", code="internal_error")
