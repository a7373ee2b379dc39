"""/v1/prompts/{name}/labels and /preview: which release answers, and what it would send."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field

from core.db.changes import Writer
from core.db.pool import Pool
from core.json.canonical import messages_sha256, sha256
from orchestrator.access.dependencies import needs
from orchestrator.access.keys import Key, Keys
from orchestrator.engines import chat_api
from orchestrator.engines.client import Engines
from prompts import labels
from prompts.labels import Target
from prompts.registry import PRODUCTION, Registry


class LabelMove(BaseModel):
    """`canaries` are other versions with the percent of keys or sessions that get them, at most 99 together.

    `revision` is the one the caller saw (0: none yet). A protected label moves only with `confirm`.
    """

    model_config = ConfigDict(extra="forbid")

    version: int = Field(ge=1)
    canaries: dict[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1, le=99)]] = Field({}, max_length=20)
    revision: int | None = Field(None, ge=0)
    protected: bool | None = None
    confirm: bool = False
    note: str = Field("", max_length=2000)
    tenant: str | None = None


class RollBack(BaseModel):
    """`revision` is the one the caller saw. A protected label moves only with `confirm`."""

    model_config = ConfigDict(extra="forbid")

    revision: int | None = Field(None, ge=1)
    confirm: bool = False
    tenant: str | None = None


class Preview(BaseModel):
    """What to render. With `count_tokens` the engine's own tokenizer counts them."""

    version: str = PRODUCTION
    variables: dict[str, Any] = {}
    history: list[dict[str, Any]] = []
    count_tokens: bool = True
    tenant: str | None = None


def router(keys: Keys, pool: Pool, registry: Registry, engines: Engines) -> APIRouter:
    api = APIRouter(prefix="/v1/prompts", tags=["prompts"])
    admin_key = Annotated[Key, Depends(needs(keys, "admin"))]

    @api.post("/{name}/preview")
    async def preview(name: str, body: Preview, request: Request, key: admin_key) -> dict[str, Any]:
        """The messages as an engine would get them, how many tokens they are to it, and the hash that an answer to them
        would carry in X-Prompt-Tokens-SHA256."""
        found = await registry.resolve(name, body.version, tenant=body.tenant or key.tenant, sticky=key.id)
        messages = found.render(body.variables, body.history, engines.control_tokens(found.model))
        ids = None
        if body.count_tokens:
            fields = chat_api.shown(found.sampling)
            ids = await engines.tokens(found.model, messages, fields, request.scope["request_id"])
        return {
            "release": found.name,
            "messages": messages,
            "negative": found.negative(body.variables),
            "messages_sha256": messages_sha256(messages),
            "tokens": ids and len(ids),
            "prompt_tokens_sha256": ids and sha256(ids),
        }

    @api.put("/{name}/labels/{label}")
    async def move(name: str, label: str, body: LabelMove, key: admin_key) -> dict[str, Any]:
        target = Target(body.version, body.canaries)
        return await labels.move(
            pool,
            name,
            label,
            target,
            Writer(key.id, body.tenant),
            note=body.note,
            revision=body.revision,
            protected=body.protected,
            confirm=body.confirm,
        )

    @api.post("/{name}/labels/{label}/rollback")
    async def roll_back(name: str, label: str, body: RollBack, key: admin_key) -> dict[str, Any]:
        """Back to the release before, and again to the one before that; a running canary is ended instead."""
        writer = Writer(key.id, body.tenant)
        return await labels.roll_back(pool, name, label, writer, revision=body.revision, confirm=body.confirm)

    @api.delete("/{name}/labels/{label}")
    async def remove(
        name: str, label: str, key: admin_key, confirm: bool = False, tenant: str | None = None
    ) -> dict[str, Any]:
        await labels.remove(pool, name, label, Writer(key.id, tenant), confirm=confirm)
        return {"name": name, "label": label, "deleted": True}

    return api
