"""Who may call a route: FastAPI dependencies over the keys."""

from collections.abc import Awaitable, Callable

from fastapi import Request

from orchestrator.auth import Key, Keys, Scope


def needs(keys: Keys, scope: Scope | None = None) -> Callable[[Request], Awaitable[Key]]:
    """A dependency that authenticates the caller and checks one scope."""

    async def caller(request: Request) -> Key:
        key = await keys.authenticate(request.scope["headers"])
        request.scope["key_id"] = key.id
        if scope is not None:
            key.require(scope)
        return key

    return caller
