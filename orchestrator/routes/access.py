"""Who may call a route: FastAPI dependencies over the keys."""

from collections.abc import AsyncIterator, Awaitable, Callable

from fastapi import Request

from core.shell import ASGIApp, Authorise, Message, Receive, Send
from core.shell import Scope as ASGIScope
from orchestrator.auth import Key, Keys, Scope
from orchestrator.blobs import PATH as BLOBS
from orchestrator.limits import Needs
from orchestrator.quotas import Quotas

PUBLIC = frozenset({"/healthz", "/readyz", "/metrics", "/openapi.json", "/docs", "/docs/oauth2-redirect", "/redoc"})
"""What may be read without a key, besides pictures behind signed links."""
ENTRY = "entry_under_limits"
"""Where a request's scope keeps it."""


class LimitsShown:
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
    keys: Keys, quotas: Quotas, scope: Scope, *, images: Callable[[Request], Awaitable[int]] | None = None
) -> Callable[[Request], AsyncIterator[Key]]:
    """The same for a route that works: it counts against the limits of the key and its tenant; so many `images` as the
    request asks for only where they were made. Tokens are taken where a model is asked (Oversight.within_limits).
    """

    async def caller(request: Request) -> AsyncIterator[Key]:
        key = await needs(keys, scope)(request)
        quotas.saw(key)
        made = await images(request) if images is not None and key.limited else 0
        entry = await quotas.enter(key, Needs(1, 0, made)) if key.limited else None
        if entry is not None:
            request.scope[ENTRY] = entry
        used = Needs(1)
        try:
            yield key
            used = Needs(1, 0, made)
        finally:
            if entry is not None:
                entry.leave(used)

    return caller
