"""/v1/prompts: recipes, their releases and labels. Nothing is changed in place: a save adds, a label moves."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field

from core.db.changes import Writer
from core.db.pool import Pool
from core.http.paging import MOST, AfterNumber, Limit, page, unknown_after
from orchestrator.access.dependencies import needs
from orchestrator.access.keys import Key, Keys
from prompts import includes, read, store
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


def router(keys: Keys, pool: Pool) -> APIRouter:
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

    return api
