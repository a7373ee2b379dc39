"""A worker's door: with a key set, every request but the operating ones carries it as a bearer token."""

import hmac

from starlette.types import Scope

from core.errors import Unauthenticated
from core.http.shell import Authorise

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/health", "/metrics"})


def worker_key_check(key: str | None) -> Authorise:
    """A check for `create_service`: raises Unauthenticated unless the scope carries `key`. No key, no check."""
    expected = b"Bearer " + (key or "").encode()

    async def check(scope: Scope) -> None:
        if key is None or scope["path"] in OPEN_PATHS:
            return
        for name, value in scope["headers"]:
            if name == b"authorization" and hmac.compare_digest(value, expected):
                return
        raise Unauthenticated("This worker wants its key as a bearer token.", code="invalid_api_key")

    return check
