"""Who may call a route: FastAPI dependencies over the keys."""

from collections.abc import AsyncIterator, Awaitable, Callable

from fastapi import Request

from orchestrator.auth import Key, Keys, Scope
from orchestrator.limits import Needs
from orchestrator.quotas import Quotas

SET_ASIDE = 2048
"""Tokens: more than most single steps of a pipeline take."""


def needs(keys: Keys, scope: Scope | None = None) -> Callable[[Request], Awaitable[Key]]:
    """A dependency that authenticates the caller and checks one scope."""

    async def caller(request: Request) -> Key:
        key = await keys.authenticate(request.scope["headers"])
        request.scope["key_id"] = key.id
        if scope is not None:
            key.require(scope)
        return key

    return caller


def metered(
    keys: Keys, quotas: Quotas, scope: Scope, *, images: Callable[[Request], Awaitable[int]] | None = None
) -> Callable[[Request], AsyncIterator[Key]]:
    """The same for a route that works: it counts against the limits of the key and its tenant; so many `images` as the
    request asks for only where they were made.

    SET_ASIDE tokens are kept for its models' answers until it ends; what those took is counted as they come.
    """

    async def caller(request: Request) -> AsyncIterator[Key]:
        key = await needs(keys, scope)(request)
        quotas.saw(key)
        made = await images(request) if images is not None and key.limited else 0
        entry = await quotas.enter(key, Needs(1, SET_ASIDE, made)) if key.limited else None
        used = Needs(1)
        try:
            yield key
            used = Needs(1, 0, made)
        finally:
            if entry is not None:
                entry.leave(used)

    return caller
