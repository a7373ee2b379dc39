"""The registry: recipes in Postgres, resolved to compiled releases that are cached for one epoch."""

from collections.abc import Iterable
from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from core.db.pool import Pool
from core.errors import NotFound
from prompts.render import ENVIRONMENT, Part, Release, compile_schema
from prompts.seed_files import RecipeSource, template_sha256

PRODUCTION = "production"
MAX_CACHED = 20_000
IMPORT_LOCK = 0x50_72_6F_6D

_RESOLVE = """
select r.recipe, r.version, r.model, r.sampling, r.variables, r.sha256
  from releases r left join labels l on l.recipe = r.recipe and l.version = r.version and l.name = %(wanted)s
 where r.recipe = %(recipe)s and (l.name is not null or r.version::text = %(wanted)s)
"""

_MESSAGES = """
select m.role, t.body from release_messages m
  left join template_versions t on t.template = m.template and t.version = m.template_version
 where m.recipe = %s and m.version = %s order by m.position
"""


class Registry:
    """Resolves (recipe, label or version) to a Release. `drop` empties the cache when the epoch moves."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._cache: dict[tuple[str, str], Release] = {}
        self._generation = 0

    def drop(self) -> None:
        self._generation += 1
        self._cache.clear()

    async def resolve(self, recipe: str, wanted: str = PRODUCTION) -> Release:
        """The release that a label or a version names. Raises NotFound."""
        key = (recipe, wanted)
        found = self._cache.get(key)
        if found is None:
            generation = self._generation
            found = await self._load(recipe, wanted)
            if len(self._cache) >= MAX_CACHED:
                self._cache.clear()
            if generation == self._generation:  # else a label may have moved while the answer was on its way
                self._cache[key] = found
        return found

    async def _load(self, recipe: str, wanted: str) -> Release:
        async with self._pool.connection() as connection:
            row = await (await connection.execute(_RESOLVE, {"recipe": recipe, "wanted": wanted})).fetchone()
            if row is None:
                raise NotFound(
                    f"No release of the recipe `{recipe[:100]}` is called `{wanted[:100]}`.",
                    param="prompt.id",
                    code="prompt_not_found",
                )
            messages = await (await connection.execute(_MESSAGES, (row["recipe"], row["version"]))).fetchall()
        return _compile(row, messages)


def _compile(row: dict[str, Any], messages: Iterable[dict[str, Any]]) -> Release:
    return Release(
        recipe=row["recipe"],
        version=row["version"],
        model=row["model"],
        sampling=row["sampling"],
        sha256=row["sha256"],
        parts=[Part(m["role"], ENVIRONMENT.from_string(m["body"]) if m["body"] else None) for m in messages],
        schema=row["variables"],
        validator=compile_schema(row["variables"]),
    )


async def import_recipes(pool: Pool, recipes: Iterable[RecipeSource], *, author: str) -> list[str]:
    """Make a release of every recipe whose content is new, and label it `production` where no one has moved that label.

    Idempotent by content hash; one transaction; safe when several processes import at once. Returns `recipe@version`
    for each release made.
    """
    made = []
    async with pool.connection() as connection, connection.transaction():
        await connection.execute("select pg_advisory_xact_lock(%s)", (IMPORT_LOCK,))
        for recipe in recipes:
            version = await _import(connection, recipe, author)
            if version is not None:
                made.append(f"{recipe.name}@{version}")
    return made


async def _import(connection: AsyncConnection[DictRow], recipe: RecipeSource, author: str) -> int | None:
    await connection.execute("insert into recipes (name) values (%s) on conflict do nothing", (recipe.name,))
    query = "select version, sha256 from releases where recipe = %s order by version desc"
    known = await (await connection.execute(query, (recipe.name,))).fetchall()
    digest = recipe.sha256
    if any(row["sha256"] == digest for row in known):
        return None
    latest = known[0]["version"] if known else 0
    version = latest + 1
    await connection.execute(
        "insert into releases (recipe, version, model, sampling, variables, author, note, sha256)"
        " values (%s, %s, %s, %s, %s, %s, %s, %s)",
        (
            *(recipe.name, version, recipe.model, Jsonb(recipe.sampling), Jsonb(recipe.variables)),
            author,
            recipe.note,
            digest,
        ),
    )
    for position, message in enumerate(recipe.messages):
        pinned = None
        if message.template is not None and message.body is not None:
            pinned = await _template_version(connection, message.template, message.body, recipe)
        await connection.execute(
            "insert into release_messages (recipe, version, position, role, template, template_version)"
            " values (%s, %s, %s, %s, %s, %s)",
            (recipe.name, version, position, message.role, message.template, pinned),
        )
    await connection.execute(
        "insert into labels (recipe, name, version) values (%s, %s, %s)"
        " on conflict (recipe, name) do update set version = excluded.version, updated_at = now()"
        " where labels.version = %s",
        (recipe.name, PRODUCTION, version, latest),
    )
    return version


async def _template_version(
    connection: AsyncConnection[DictRow], template: str, body: str, recipe: RecipeSource
) -> int:
    """The version of a template that has this content, made if it is new."""
    digest = template_sha256(body, recipe.variables)
    await connection.execute("insert into templates (name) values (%s) on conflict do nothing", (template,))
    query = "select version from template_versions where template = %s and sha256 = %s"
    row = await (await connection.execute(query, (template, digest))).fetchone()
    if row is None:
        query = (
            "insert into template_versions (template, version, body, variables, sha256)"
            " select %(t)s, coalesce(max(version), 0) + 1, %(b)s, %(v)s, %(h)s from template_versions"
            " where template = %(t)s returning version"
        )
        given = {"t": template, "b": body, "v": Jsonb(recipe.variables), "h": digest}
        row = await (await connection.execute(query, given)).fetchone()
    assert row is not None
    return int(row["version"])
