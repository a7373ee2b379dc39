"""Writing prompts: releases are added, never changed; every change says who made it, the audit chain keeps it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from psycopg.types.json import Jsonb

from core.db.changes import Connection, Writer, changing
from core.db.connection import patient
from core.db.pool import Pool
from prompts import contract, includes
from prompts.schema import NOTHING
from prompts.sources import SETTINGS, RecipeSource, template_sha256

IMPORT_LOCK = 0x50_72_6F_6D
PRODUCTION = "production"


@dataclass(frozen=True)
class SavedRelease:
    """A release that is there now; `created` is False where the same content was there already."""

    recipe: str
    version: int
    sha256: str
    created: bool


async def save_release(pool: Pool, source: RecipeSource, writer: Writer) -> SavedRelease:
    """Check a recipe against the contract and keep it as a new release. Idempotent by content."""
    contract.check(source)
    async with changing(pool, writer) as connection:
        await connection.execute("select pg_advisory_xact_lock(%s)", (IMPORT_LOCK,))
        return await _save(connection, source, writer)


async def import_recipes(pool: Pool, recipes: Iterable[RecipeSource], *, author: str) -> list[str]:
    """Make a release of every recipe whose content is new, and label it `production` where no one has moved that label.
    Idempotent by content hash; one transaction for each recipe; safe when several processes import at once. Returns
    `recipe@version` for each release made."""
    made = []
    writer = Writer(author)
    for recipe in await _unknown(pool, list(recipes), writer):
        async with changing(pool, writer) as connection:
            with patient(connection):
                await connection.execute("select pg_advisory_xact_lock(%s)", (IMPORT_LOCK,))
            if not await _version_of(connection, recipe, writer):
                contract.check(recipe)
                saved = await _save(connection, recipe, writer)
                await _label_if_unmoved(connection, saved, writer)
                made.append(f"{saved.recipe}@{saved.version}")
    return made


async def _unknown(pool: Pool, sources: list[RecipeSource], writer: Writer) -> list[RecipeSource]:
    """Those whose content is no release yet. Asked once and without a lock: at every start but the first it is none."""
    query = (
        "select recipe, sha256 from releases where tenant is not distinct from %s"
        " and (recipe, sha256) in (select * from unnest(%s::text[], %s::text[]))"
    )
    asked = (writer.tenant, [source.name for source in sources], [source.sha256 for source in sources])
    async with pool.connection() as connection:
        rows = await (await connection.execute(query, asked)).fetchall()
    known = {(row["recipe"], row["sha256"]) for row in rows}
    return [source for source in sources if (source.name, source.sha256) not in known]


async def _version_of(connection: Connection, source: RecipeSource, writer: Writer) -> int | None:
    """The version that has this content already."""
    query = "select version from releases where recipe = %s and sha256 = %s and tenant is not distinct from %s"
    row = await (await connection.execute(query, (source.name, source.sha256, writer.tenant))).fetchone()
    return int(row["version"]) if row else None


async def _save(connection: Connection, source: RecipeSource, writer: Writer) -> SavedRelease:
    known = await _version_of(connection, source, writer)
    if known is not None:
        return SavedRelease(source.name, known, source.sha256, created=False)
    await connection.execute("insert into recipes (name) values (%s) on conflict do nothing", (source.name,))
    values = {name: getattr(source, name) for name in SETTINGS}
    values |= {"sampling": Jsonb(source.sampling), "variables": Jsonb(source.variables), "recipe": source.name}
    values |= {"sha256": source.sha256, "tenant": writer.tenant, "author": writer.actor}
    query = (
        f"insert into releases (version, {', '.join(values)})"  # noqa: S608 - names of columns
        f" select coalesce(max(version), 0) + 1, {', '.join(f'%({name})s' for name in values)}"
        " from releases where recipe = %(recipe)s returning version"
    )
    version = await _number(connection, query, values)
    await _save_messages(connection, source, version, writer)
    for position, golden in enumerate(source.goldens):
        await connection.execute(
            "insert into golden_renders (recipe, version, position, variables, history, messages)"
            " values (%s, %s, %s, %s, %s, %s)",
            (source.name, version, position, *map(Jsonb, (golden.variables, golden.history, golden.messages))),
        )
    return SavedRelease(source.name, version, source.sha256, created=True)


async def _save_messages(connection: Connection, source: RecipeSource, version: int, writer: Writer) -> None:
    for position, message in enumerate(source.messages):
        pinned = None
        if message.template is not None and message.body is not None:
            pinned = await _template_version(connection, message.template, message.body, source, writer)
        await connection.execute(
            "insert into release_messages (recipe, version, position, role, template, template_version)"
            " values (%s, %s, %s, %s, %s, %s)",
            (source.name, version, position, message.role, message.template, pinned),
        )


async def _template_version(
    connection: Connection, template: str, body: str, source: RecipeSource, writer: Writer
) -> int:
    """The version of a template that has this content and these includes, made if it is new."""
    pins = []
    for name in includes.names(body):
        digest = template_sha256(source.includes[name], NOTHING)
        version, _ = await _save_template(connection, name, source.includes[name], NOTHING, digest, writer)
        pins.append((name, version))
    digest = source.template_sha256(body)
    version, created = await _save_template(connection, template, body, source.variables, digest, writer)
    for name, pinned in pins if created else ():
        await connection.execute(
            "insert into template_includes (template, version, included, included_version) values (%s, %s, %s, %s)",
            (template, version, name, pinned),
        )
    return version


async def _save_template(
    connection: Connection, name: str, body: str, variables: Any, digest: str, writer: Writer
) -> tuple[int, bool]:
    """(version, whether it is new) of a template's content."""
    await connection.execute("insert into templates (name) values (%s) on conflict do nothing", (name,))
    query = (
        "select version from template_versions where template = %s and sha256 = %s"
        " and (tenant is null or tenant is not distinct from %s) order by tenant nulls first limit 1"
    )
    row = await (await connection.execute(query, (name, digest, writer.tenant))).fetchone()
    if row is not None:
        return int(row["version"]), False
    query = (
        "insert into template_versions (template, version, body, variables, sha256, tenant, author)"
        " select %(name)s, coalesce(max(version), 0) + 1, %(body)s, %(variables)s, %(digest)s, %(tenant)s, %(author)s"
        " from template_versions where template = %(name)s returning version"
    )
    values = {"name": name, "body": body, "variables": Jsonb(variables), "digest": digest}
    return await _number(connection, query, {**values, "tenant": writer.tenant, "author": writer.actor}), True


async def _label_if_unmoved(connection: Connection, saved: SavedRelease, writer: Writer) -> None:
    """`production` goes along with what ships, until somebody moves it."""
    await connection.execute(
        "insert into labels (recipe, name, version, tenant, author, note) values (%s, %s, %s, %s, %s, 'shipped')"
        " on conflict on constraint one_label do update set version = excluded.version"
        " where labels.author = excluded.author and labels.canaries is null and not labels.protected",
        (saved.recipe, PRODUCTION, saved.version, writer.tenant, writer.actor),
    )


async def _number(connection: Connection, query: str, values: dict[str, Any]) -> int:
    row = await (await connection.execute(query.encode(), values)).fetchone()
    assert row is not None
    return int(row["version"])
