"""Labels: a name for a release, moved in one statement, rolled back in one call, with a canary where wanted."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from psycopg.types.json import Jsonb

from core.db.pool import Pool
from core.errors import Conflict, NotFound
from prompts.store import Connection, Writer, changing


@dataclass(frozen=True)
class Target:
    """Where a label goes: a version, and others for some percent each of keys or sessions, at most 99 together."""

    version: int
    canaries: Mapping[int, int] = field(default_factory=dict)


_COLUMNS = "recipe, name, tenant, version, canaries, protected, revision, author, note, updated_at"
_MOVE = f"""
update labels set version = %(version)s, canaries = %(canaries)s, author = %(author)s,
                  note = %(note)s, protected = coalesce(%(protected)s, protected)
 where recipe = %(recipe)s and name = %(name)s and tenant is not distinct from %(tenant)s
   and revision = coalesce(%(revision)s, revision) returning {_COLUMNS}
"""  # noqa: S608 - constants only
_MAKE = f"""
insert into labels (recipe, name, tenant, version, canaries, author, note, protected)
values (%(recipe)s, %(name)s, %(tenant)s, %(version)s, %(canaries)s, %(author)s, %(note)s,
        coalesce(%(protected)s, false)) on conflict on constraint one_label do nothing returning {_COLUMNS}
"""  # noqa: S608 - constants only


async def move(
    pool: Pool,
    recipe: str,
    name: str,
    target: Target,
    writer: Writer,
    *,
    note: str = "",
    revision: int | None = None,
    protected: bool | None = None,
    confirm: bool = False,
) -> dict[str, Any]:
    """Point a label at a release, or make the label; the row as it is then.

    `revision` is the one the caller saw (0: none yet): Conflict (`label_moved`) where it moved since. A protected label
    moves only with `confirm`. Raises NotFound where the release is not there.
    """
    values = {
        **{"recipe": recipe, "name": name, "tenant": writer.tenant, "author": writer.actor, "note": note},
        **{"version": target.version, "canaries": Jsonb(dict(target.canaries)) if target.canaries else None},
        **{"revision": revision, "protected": protected},
    }
    async with changing(pool, writer) as connection:
        await _release_exists(connection, recipe, target, writer)
        if confirm:
            await connection.execute("select set_config('soundstage.move_protected', %s, true)", (f"{recipe}/{name}",))
        row = None if revision == 0 else await (await connection.execute(_MOVE.encode(), values)).fetchone()
        if row is None:
            row = await (await connection.execute(_MAKE.encode(), values)).fetchone() if not revision else None
    if row is None:
        raise Conflict("The label was moved by somebody else since.", param="revision", code="label_moved")
    return row


async def roll_back(pool: Pool, recipe: str, name: str, writer: Writer, *, confirm: bool = False) -> dict[str, Any]:
    """Back to the release the label named before this one. Raises NotFound, Conflict (`nothing_before`)."""
    query = (
        "select version, canaries from label_moves where recipe = %s and name = %s"
        " and tenant is not distinct from %s and version is not null order by id desc"
    )
    async with pool.connection() as connection:
        rows = await (await connection.execute(query, (recipe, name, writer.tenant))).fetchall()
    if not rows:
        raise NotFound(f"The recipe `{recipe[:100]}` has no label `{name[:100]}`.", code="label_not_found")
    now = rows[0]
    before = next((row for row in rows if row != now and row["version"] != now["version"]), None)
    if before is None and now["canaries"] is None:
        raise Conflict("The label never named another release.", code="nothing_before")
    # With a canary running, ending it is the rollback; else the release before.
    target = Target(now["version"] if now["canaries"] is not None else (before or now)["version"])
    return await move(pool, recipe, name, target, writer, note="rollback", confirm=confirm)


async def remove(pool: Pool, recipe: str, name: str, writer: Writer, *, confirm: bool = False) -> None:
    """Take a label away. Raises NotFound; Conflict where it is protected and not confirmed."""
    async with changing(pool, writer) as connection:
        if confirm:
            await connection.execute("select set_config('soundstage.move_protected', %s, true)", (f"{recipe}/{name}",))
        cursor = await connection.execute(
            "delete from labels where recipe = %s and name = %s and tenant is not distinct from %s",
            (recipe, name, writer.tenant),
        )
    if not cursor.rowcount:
        raise NotFound(f"The recipe `{recipe[:100]}` has no label `{name[:100]}`.", code="label_not_found")


async def _release_exists(connection: Connection, recipe: str, target: Target, writer: Writer) -> None:
    wanted = {target.version, *target.canaries}
    query = (
        "select count(*) as found from releases where recipe = %s and version = any(%s)"
        " and (tenant is null or tenant is not distinct from %s)"
    )
    row = await (await connection.execute(query, (recipe, list(wanted), writer.tenant))).fetchone()
    if row is None or row["found"] != len(wanted):
        raise NotFound(f"The recipe `{recipe[:100]}` has no such release.", param="version", code="prompt_not_found")
