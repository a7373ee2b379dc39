"""The registry: recipes in Postgres, resolved to compiled releases.

A release never changes, so it is compiled once; what a label names is looked up once for each epoch. With the database
away, what was known goes on.
"""

import hashlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from core.db.errors import DATABASE_AWAY
from core.db.pool import Pool
from core.errors import NotFound, Unavailable
from prompts.render import Part, Release
from prompts.schema import compile_schema
from prompts.store import PRODUCTION, import_recipes

__all__ = ["PRODUCTION", "Registry", "import_recipes"]

log = logging.getLogger(__name__)

MAX_CACHED = 20_000

_LABEL = """
select version, canaries from labels
 where recipe = %(recipe)s and name = %(wanted)s and (tenant is null or tenant = %(tenant)s)
 order by tenant nulls last limit 1
"""
_RELEASE = """
select recipe, version, model, sampling, variables as schema, sha256, tier, control_tokens, max_output, tenant,
       policy_version
  from releases where recipe = %s and version = %s
"""
_MESSAGES = """
select m.role, t.body, (select jsonb_object_agg(i.included, it.body) from template_includes i
                          join template_versions it on it.template = i.included and it.version = i.included_version
                         where i.template = m.template and i.version = m.template_version) as included
  from release_messages m
  left join template_versions t on t.template = m.template and t.version = m.template_version
 where m.recipe = %s and m.version = %s order by m.position
"""


@dataclass(frozen=True)
class _Choice:
    """What a label names now: one release, or several by weight, of which a caller gets the same one every time.
    `canaries` are releases with the percent of callers that get them, in the order of their versions."""

    main: Release
    canaries: tuple[tuple[Release, int], ...] = ()

    def of(self, sticky: str) -> Release:
        if not self.canaries:
            return self.main
        digest = hashlib.sha256(f"{self.main.recipe}\x1f{sticky}".encode()).digest()
        place = int.from_bytes(digest[:4]) % 100
        for release, percent in self.canaries:
            if place < percent:
                return release
            place -= percent
        return self.main


class Registry:
    """Resolves (recipe, label or version) to a Release. `drop` forgets what labels name when the epoch moves."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._choices: dict[tuple[str | None, str, str], _Choice] = {}
        self._before: dict[tuple[str | None, str, str], _Choice] = {}
        self._compiled: dict[tuple[str, int], Release] = {}
        self._absent: set[tuple[str | None, str]] = set()
        self._generation = 0

    def drop(self) -> None:
        self._generation += 1
        self._absent.clear()
        self._before.update(self._choices)
        self._choices = {}

    async def resolve(
        self, recipe: str, wanted: str = PRODUCTION, *, tenant: str | None = None, sticky: str = ""
    ) -> Release:
        """The release that a label or a version names for this tenant; `sticky` (a key or a session) picks the canary.

        Raises NotFound; Unavailable where the database is away and the release was never asked for.
        """
        key = (tenant, recipe, wanted)
        found = self._choices.get(key)
        if found is None:
            found = await self._look_up(key)
        return found.of(sticky)

    async def has(self, recipe: str, *, tenant: str | None = None) -> bool:
        """Whether this tenant has a release of it in production. That there is none is remembered, too: not for names
        that callers make up. Raises Unavailable like `resolve`."""
        generation = self._generation
        if (tenant, recipe) in self._absent:
            return False
        try:
            await self.resolve(recipe, tenant=tenant)
        except NotFound:
            if generation == self._generation and len(self._absent) < MAX_CACHED:
                self._absent.add((tenant, recipe))
            return False
        return True

    async def _look_up(self, key: tuple[str | None, str, str]) -> _Choice:
        generation = self._generation
        try:
            found = await self._load(*key)
        except DATABASE_AWAY as exc:
            if key in self._before:
                log.warning("labels not read; going on with what is known", extra={"recipe": key[1]})
                return self._before[key]
            raise Unavailable("The prompts cannot be read right now.", code="database_away", retry_after=2) from exc
        for cache in (self._choices, self._before):
            if len(cache) >= MAX_CACHED:
                cache.clear()
        if generation == self._generation:  # else a label may have moved while the answer was on its way
            self._choices[key] = found
        self._before.pop(key, None)
        return found

    async def _load(self, tenant: str | None, recipe: str, wanted: str) -> _Choice:
        async with self._pool.connection() as connection:
            names = {"recipe": recipe, "wanted": wanted, "tenant": tenant}
            label = await (await connection.execute(_LABEL, names)).fetchone()
            if label is None:
                version = int(wanted) if wanted.isdecimal() and len(wanted) < 10 else 0
                return _Choice(await self._release(connection, recipe, version, tenant, wanted))
            main = await self._release(connection, recipe, label["version"], tenant, wanted)
            weights = sorted((int(version), percent) for version, percent in (label["canaries"] or {}).items())
            canaries = [(await self._release(connection, recipe, v, tenant, wanted), percent) for v, percent in weights]
            return _Choice(main, tuple(canaries))

    async def _release(self, connection: Any, recipe: str, version: int, tenant: str | None, wanted: str) -> Release:
        found = self._compiled.get((recipe, version))
        if found is None:
            row = await (await connection.execute(_RELEASE, (recipe, version))).fetchone()
            if row is not None:
                messages = await (await connection.execute(_MESSAGES, (recipe, version))).fetchall()
                found = _compile(row, messages)
                if len(self._compiled) >= MAX_CACHED:
                    self._compiled.clear()
                self._compiled[recipe, version] = found
        if found is None or (found.tenant is not None and found.tenant != tenant):
            raise NotFound(
                f"No release of the recipe `{recipe[:100]}` is called `{wanted[:100]}`.",
                param="prompt.id",
                code="prompt_not_found",
            )
        return found


def _compile(row: dict[str, Any], messages: Iterable[dict[str, Any]]) -> Release:
    parts = [Part.compiled(message["role"], message["body"], message["included"] or {}) for message in messages]
    return Release(**row, parts=parts, validator=compile_schema(row["schema"]))
