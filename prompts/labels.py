"""Labels: a name for a release, moved in one statement, rolled back in one call, with a canary where wanted."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from psycopg.types.json import Jsonb

from core.db.changes import Connection, Writer, changing
from core.db.pool import Pool
from core.errors import Conflict, NotFound


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
_REVISION = "select revision from labels where recipe = %s and name = %s and tenant is not distinct from %s"
_HISTORY = (
    "select version, canaries, rollback from label_moves"
    " where recipe = %s and name = %s and tenant is not distinct from %s order by id"
)


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
    is_rollback: bool = False,
) -> dict[str, Any]:
    """Point a label at a release, or make the label; the row as it is then. `revision` is the one the caller saw (0:
    none yet): Conflict (`label_moved`) where it moved since. A protected label moves only with `confirm`. Raises
    NotFound where the release is not there."""
    values = {
        **{"recipe": recipe, "name": name, "tenant": writer.tenant, "author": writer.actor, "note": note},
        **{"version": target.version, "canaries": Jsonb(dict(target.canaries)) if target.canaries else None},
        **{"revision": revision, "protected": protected},
    }
    async with changing(pool, writer) as connection:
        await _release_exists(connection, recipe, target, writer)
        if confirm:
            await connection.execute("select set_config('soundstage.move_protected', %s, true)", (f"{recipe}/{name}",))
        if is_rollback:
            await connection.execute("select set_config('soundstage.roll_back', %s, true)", (f"{recipe}/{name}",))
        row = None if revision == 0 else await (await connection.execute(_MOVE.encode(), values)).fetchone()
        if row is None:
            row = await (await connection.execute(_MAKE.encode(), values)).fetchone() if not revision else None
    if row is None:
        raise _moved()
    return row


async def roll_back(
    pool: Pool, recipe: str, name: str, writer: Writer, *, revision: int | None = None, confirm: bool = False
) -> dict[str, Any]:
    """Back to the release the label named before this one, and with the next call to the one before that. Raises
    NotFound, Conflict: `nothing_before`, and `label_moved` where `revision` is not the label's any more."""
    at = (recipe, name, writer.tenant)
    async with pool.connection() as connection:
        label = await (await connection.execute(_REVISION, at)).fetchone()
        moves = await (await connection.execute(_HISTORY, at)).fetchall()
    if label is None:
        raise NotFound(f"The recipe `{recipe[:100]}` has no label `{name[:100]}`.", code="label_not_found")
    if revision is not None and revision != label["revision"]:
        raise _moved()
    back = _before(_standing(moves))
    if not back:
        raise Conflict("The label never named another release.", code="nothing_before")
    target = Target(back[-1][0])
    seen = int(label["revision"])
    return await move(
        pool, recipe, name, target, writer, note="rollback", revision=seen, confirm=confirm, is_rollback=True
    )


Place = tuple[int, bool]
"""Where a label was: the version, and whether a canary ran beside it."""


def _standing(moves: Iterable[Mapping[str, Any]]) -> list[Place]:
    """The places that the label went through and was not taken back from, the last one is where it is."""
    places: list[Place] = []
    for one in moves:
        if one["version"] is None:  # it was taken away
            places = []
        elif one["rollback"] and places:
            places = _before(places) or [(one["version"], False)]
        else:
            places.append((one["version"], one["canaries"] is not None))
    return places


def _before(places: list[Place]) -> list[Place]:
    """The same after a rollback: a running canary is ended, else the release before is back. None: there is none."""
    version, canary = places[-1]
    if canary:
        return [*places[:-1], (version, False)]
    left = list(places)
    while left and left[-1][0] == version:
        left.pop()
    return [*left[:-1], (left[-1][0], False)] if left else []


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


def _moved() -> Conflict:
    return Conflict("The label was moved by somebody else since.", param="revision", code="label_moved")


async def _release_exists(connection: Connection, recipe: str, target: Target, writer: Writer) -> None:
    wanted = {target.version, *target.canaries}
    query = (
        "select count(*) as found from releases where recipe = %s and version = any(%s)"
        " and (tenant is null or tenant is not distinct from %s)"
    )
    row = await (await connection.execute(query, (recipe, list(wanted), writer.tenant))).fetchone()
    if row is None or row["found"] != len(wanted):
        raise NotFound(f"The recipe `{recipe[:100]}` has no such release.", param="version", code="prompt_not_found")
