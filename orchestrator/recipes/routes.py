"""/v1/prompts: recipes, their releases and labels. Nothing is changed in place: a save adds, a label moves."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from core.db.changes import Writer
from core.db.pool import Pool
from core.http.paging import MOST, AfterNumber, Limit, page, unknown_after
from core.json.canonical import messages_sha256, sha256
from orchestrator.access.dependencies import needs
from orchestrator.access.keys import Key, Keys
from orchestrator.engines import chat_api
from orchestrator.engines.client import Engines
from prompts import includes, labels, read, store
from prompts.labels import Target
from prompts.registry import PRODUCTION, Registry
from prompts.render import MAX_OUTPUT, ControlTokens, Role
from prompts.schema import NOTHING
from prompts.sources import Golden, MessageSource, RecipeSource

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,126}$")]


class NewMessage(BaseModel):
    """One message: its role and its template's text; a history has none."""

    model_config = ConfigDict(extra="forbid")

    role: Role
    body: str | None = Field(None, max_length=65_536)
    template: str | None = Field(None, pattern=r"^[a-z0-9][a-z0-9_./-]{0,126}$")


class NewGolden(BaseModel):
    """What the release must render to for these variables."""

    model_config = ConfigDict(extra="forbid")

    variables: dict[str, Any] = {}
    history: list[dict[str, Any]] = []
    messages: list[dict[str, Any]]


class NewRelease(BaseModel):
    """The body of POST /v1/prompts. `includes` gives texts by name; others are the newest that are stored."""

    model_config = ConfigDict(extra="forbid")

    name: Name
    model: str = Field(min_length=1, max_length=200)
    messages: list[NewMessage] = Field(min_length=1, max_length=50)
    variables: dict[str, Any] = dict(NOTHING)
    sampling: dict[str, Any] = {}
    tier: int = Field(1, ge=0, le=2)
    control_tokens: ControlTokens = "refuse"
    max_output: int = Field(MAX_OUTPUT, ge=1, le=MAX_OUTPUT)
    policy_version: int | None = None
    includes: dict[str, str] = {}
    goldens: list[NewGolden] = Field([], max_length=100)
    note: str = Field("", max_length=2000)
    tenant: str | None = None

    def source(self, included: dict[str, str]) -> RecipeSource:
        messages = [
            MessageSource(m.role, (m.template or f"{self.name}/{m.role}-{at}") if m.body is not None else None, m.body)
            for at, m in enumerate(self.messages)
        ]
        goldens = tuple(Golden(g.variables, tuple(g.history), tuple(g.messages)) for g in self.goldens)
        fields = self.model_dump(exclude={"messages", "goldens", "includes", "tenant"})
        return RecipeSource(messages=tuple(messages), goldens=goldens, includes=included, **fields)


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

    @api.post("")
    async def create(body: NewRelease, key: admin_key) -> dict[str, Any]:
        """Check a release against the contract and keep it. The same content again is the same release."""
        wanted = {name for m in body.messages for name in includes.names(m.body or "")}
        included = {
            **await read.newest_templates(pool, wanted - set(body.includes), tenant=body.tenant),
            **body.includes,
        }
        used = {name: text for name, text in included.items() if name in wanted}
        saved = await store.save_release(pool, body.source(used), Writer(key.id, body.tenant))
        return {"name": saved.recipe, "version": saved.version, "sha256": saved.sha256, "created": saved.created}

    @api.get("")
    async def listed(_: admin_key, tenant: str | None = None, after: str = "", limit: Limit = 100) -> dict[str, Any]:
        """By name; `after` is the last name of the page before."""
        if after and not await read.knows(pool, after, tenant=tenant):
            raise unknown_after(after)
        return page(await read.recipes(pool, tenant=tenant, after=after, limit=limit + 1), limit)

    @api.get("/{name}")
    async def one(
        name: str, _: admin_key, tenant: str | None = None, after: AfterNumber = None, limit: Limit = MOST
    ) -> dict[str, Any]:
        """Its labels, and its releases, the newest first; `after` is the last version of the page before."""
        if after is not None and not await read.knows(pool, name, after, tenant=tenant):
            raise unknown_after(after)
        found = page(await read.releases(pool, name, tenant=tenant, after=after, limit=limit + 1), limit)
        return {
            "name": name,
            "releases": found["data"],
            "has_more": found["has_more"],
            "labels": await read.labels(pool, name, tenant=tenant),
        }

    @api.get("/{name}/releases/{version}")
    async def release(name: str, version: int, _: admin_key, tenant: str | None = None) -> dict[str, Any]:
        source = await read.source(pool, name, version, tenant=tenant)
        return {"version": version, "sha256": source.sha256, **read.facts(source)}

    @api.get("/{name}/diff")
    async def diff(
        name: str, from_: Annotated[int, Query(alias="from")], to: int, _: admin_key, tenant: str | None = None
    ) -> dict[str, Any]:
        """What changed between two releases, as a unified diff."""
        one, other = [read.written(await read.source(pool, name, v, tenant=tenant)) for v in (from_, to)]
        return {"from": from_, "to": to, "diff": read.difference(one, other, (f"{name}@{from_}", f"{name}@{to}"))}

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
