"""/v1/keys: an admin makes, lists, changes, rotates and revokes API keys."""

from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query

from core.db.changes import Writer
from core.db.pool import Pool
from core.errors import InvalidRequest
from core.http.paging import MOST, After, Limit, page
from orchestrator.access import key_store
from orchestrator.access.dependencies import needs
from orchestrator.access.key_store import KeyChange, NewKey, Nothing, Rotation
from orchestrator.access.keys import Key, Keys


def router(keys: Keys, pool: Pool) -> APIRouter:
    api = APIRouter(prefix="/v1/keys", tags=["keys"])
    admin_key = Annotated[Key, Depends(needs(keys, "admin"))]

    @api.post("", status_code=201)
    async def make(body: NewKey, admin: admin_key) -> dict[str, Any]:
        """The key with its `secret`, which is shown this once and kept nowhere."""
        return await key_store.make(pool, body, Writer(admin.id))

    @api.get("")
    async def listed(
        _: admin_key, tenant: str | None = None, revoked: bool = False, after: After = None, limit: Limit = MOST
    ) -> dict[str, Any]:
        """The newest first; `after` is the last id of the page before."""
        rows = await key_store.list_keys(pool, tenant, revoked=revoked, after=after, limit=limit + 1)
        return page(rows, limit)

    @api.get("/{key_id}")
    async def one(key_id: str, _: admin_key) -> dict[str, Any]:
        return await key_store.one(pool, key_id)

    @api.patch("/{key_id}")
    async def change(key_id: str, body: KeyChange, admin: admin_key) -> dict[str, Any]:
        found = await key_store.change(pool, key_id, body, Writer(admin.id))
        keys.drop()
        return found

    @api.post("/{key_id}/rotate", status_code=201)
    async def rotate(
        key_id: str, admin: admin_key, query: Annotated[Rotation, Query()], body: Rotation | None = None
    ) -> dict[str, Any]:
        """The same key with a new secret; the old one ends after `grace_seconds`, which stand in the body, or in the
        query."""
        if body is not None and body.model_fields_set and query.model_fields_set:
            message = "Send `grace_seconds` in the body or in the query, not in both."
            raise InvalidRequest(message, param="grace_seconds", code="given_twice")
        grace = (query if body is None or query.model_fields_set else body).grace_seconds
        found = await key_store.rotate(pool, key_id, timedelta(seconds=grace), Writer(admin.id))
        keys.drop()
        return found

    @api.delete("/{key_id}")
    async def revoke(key_id: str, admin: admin_key, _: Nothing | None = None) -> dict[str, Any]:
        """At once, with all its secrets."""
        found = await key_store.revoke(pool, key_id, Writer(admin.id))
        keys.drop()
        return found

    return api
