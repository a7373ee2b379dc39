"""Who may call a route: FastAPI dependencies over the keys."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as ASGIScope

from core.http import idempotency
from core.http.shell import Authorise
from orchestrator.access.keys import Key, Keys, Scope
from orchestrator.access.limits import Needs
from orchestrator.access.quotas import Entry, Quotas
from orchestrator.operate.blobs import PATH as BLOBS

Repeated = Callable[[Key, str], Awaitable[bool]]
"""Whether a key's request under this Idempotency-Key was made before."""

PUBLIC = frozenset({"/healthz", "/readyz", "/metrics", "/openapi.json", "/docs", "/docs/oauth2-redirect", "/redoc"})
"""What may be read without a key, besides pictures behind signed links."""
ENTRY = "entry_under_limits"
"""Where a request's scope keeps it."""


class LimitHeaders:
    """Pure ASGI middleware: answers of such routes say what is left of the limits that hold for them."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        async def shown(message: Message) -> None:
            if message["type"] == "http.response.start" and ENTRY in scope:
                known = {name for name, _ in message["headers"]}
                own = (pair for pair in scope[ENTRY].headers() if pair[0] not in known)
                message["headers"] = [*message["headers"], *own]
            await send(message)

        await self._app(scope, receive, shown)


def key_first(keys: Keys) -> Authorise:
    """A check for `create_service`: a known key, before a byte of the body is read. Routes check its scope."""

    async def check(scope: ASGIScope) -> None:
        path: str = scope["path"]
        if scope["method"] in ("GET", "HEAD") and (path in PUBLIC or path.startswith(BLOBS)):
            return
        await keys.caller(scope)

    return check


def needs(keys: Keys, scope: Scope | None = None) -> Callable[[Request], Awaitable[Key]]:
    """A dependency that says who calls and checks one scope."""

    async def caller(request: Request) -> Key:
        key = await keys.caller(request.scope)
        if scope is not None:
            key.require(scope)
        return key

    return caller


def metered(
    keys: Keys, quotas: Quotas, scope: Scope, *, repeated: Repeated | None = None
) -> Callable[[Request], AsyncIterator[Key]]:
    """The same for a route that works: it counts as one request against the limits of the key and its tenant, unless it
    is `repeated`: what was asked for before is read again, and no limit stands in the way. Tokens and pictures are
    taken where an engine is asked (runs/call.py)."""

    async def caller(request: Request) -> AsyncIterator[Key]:
        key = await needs(keys, scope)(request)
        quotas.saw(key)
        if repeated is not None and key.limited and await _repeats(request, key, repeated):
            yield key
            return
        async with one_request(request, quotas, key):
            yield key

    return caller


@contextlib.asynccontextmanager
async def one_request(request: Request, quotas: Quotas, key: Key) -> AsyncIterator[None]:
    """For the block, one request of the key and its tenant. Raises what their limits say."""
    if not key.limited:
        yield
        return
    entry = request.scope[ENTRY] = await quotas.enter(key, Needs(1))
    try:
        yield
    finally:
        entry.leave(Needs(1))


async def _repeats(request: Request, key: Key, repeated: Repeated) -> bool:
    name = idempotency.checked(request.headers.get(idempotency.HEADER))
    return name is not None and await repeated(key, name)


async def check_pictures(request: Request, asked: int) -> None:
    """Before anything is done for them. Raises RateLimited where the caller's limits have no room for so many."""
    entry: Entry | None = request.scope.get(ENTRY)
    if entry is not None:
        await entry.check(Needs(0, 0, asked))
