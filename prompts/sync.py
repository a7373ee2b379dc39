"""Prompts between a folder and the database, both ways, by content hash.

`.prompts.json` in the folder remembers what each recipe was when both sides last agreed. What changed on one side only
is taken over; what changed on both is a conflict, reported and left alone unless it is named to be taken `over`.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tomli_w

from core.db.changes import Writer
from core.db.pool import Pool
from core.errors import InvalidRequest
from prompts import labels, read
from prompts.labels import Target
from prompts.sources import SHARED, MessageSource, RecipeSource, read_folder
from prompts.store import PRODUCTION, save_release

STATE = ".prompts.json"
State = Literal["same", "changed here", "changed there", "conflict", "only here", "only there", "removed here"]


@dataclass(frozen=True)
class Entry:
    """One recipe on both sides. `revision` is that of the label in the database."""

    name: str
    state: State
    here: RecipeSource | None
    there: RecipeSource | None
    revision: int = 0

    @property
    def diff(self) -> str:
        one = read.written(self.there) if self.there else ""
        other = read.written(self.here) if self.here else ""
        return read.difference(one, other, (f"{self.name} (database)", f"{self.name} (folder)"))


async def compare(pool: Pool, folder: Path, *, label: str = PRODUCTION, tenant: str | None = None) -> list[Entry]:
    """Every recipe of the folder and of the database, and how the two stand."""
    here = {source.name: source for source in read_folder(folder)}
    base = _state(folder)
    query = (
        "select distinct on (recipe) recipe, version, revision from labels where name = %s"
        " and (tenant is null or tenant = %s) order by recipe, tenant nulls last"
    )
    async with pool.connection() as connection:
        rows = await (await connection.execute(query, (label, tenant))).fetchall()
    there = {row["recipe"]: row for row in rows}
    found = []
    for name in sorted({*here, *there}):
        row = there.get(name)
        source = await read.source(pool, name, row["version"], tenant=tenant) if row else None
        state = _judge(here.get(name), source, base.get(name))
        found.append(Entry(name, state, here.get(name), source, row["revision"] if row else 0))
    return found


def _judge(here: RecipeSource | None, there: RecipeSource | None, base: str | None) -> State:
    if here is None:
        return "only there" if base is None else "removed here"
    if there is None:
        return "only here"
    if here.sha256 == there.sha256:
        return "same"
    if here.sha256 == base:
        return "changed there"
    return "changed here" if there.sha256 == base else "conflict"


async def pull(
    pool: Pool, folder: Path, *, label: str = PRODUCTION, tenant: str | None = None, over: Collection[str] = ()
) -> list[Entry]:
    """Take over what changed in the database. Returns what was looked at; conflicts are left alone, but for recipes
    that are named to be taken `over`: of these the database's side wins."""
    entries = await compare(pool, folder, label=label, tenant=tenant)
    agreed = _state(folder)
    for entry in entries:
        moves = entry.state in ("changed there", "only there") or _settled(entry, over)
        if moves and entry.there:
            write_recipe(folder, entry.there)
            agreed[entry.name] = entry.there.sha256
        elif entry.state == "same" and entry.here:
            agreed[entry.name] = entry.here.sha256
    _remember(folder, agreed)
    return entries


async def push(
    pool: Pool, folder: Path, writer: Writer, *, label: str = PRODUCTION, over: Collection[str] = ()
) -> list[Entry]:
    """Make releases of what changed in the folder and move the label there. Conflicts are left alone, but for recipes
    that are named to be taken `over`: of these the folder's side wins. Raises Conflict where a label moved between the
    comparison and the push."""
    entries = await compare(pool, folder, label=label, tenant=writer.tenant)
    agreed = _state(folder)
    for entry in entries:
        moves = entry.state in ("changed here", "only here") or _settled(entry, over)
        if moves and entry.here:
            saved = await save_release(pool, entry.here, writer)
            target = Target(saved.version)
            await labels.move(pool, entry.name, label, target, writer, note="push", revision=entry.revision)
        if (moves or entry.state == "same") and entry.here:
            agreed[entry.name] = entry.here.sha256
    _remember(folder, agreed)
    return entries


def _settled(entry: Entry, over: Collection[str]) -> bool:
    return entry.name in over and entry.state != "same"


def write_recipe(folder: Path, source: RecipeSource) -> None:
    """A recipe as files, such that reading them gives the same content hash. Raises InvalidRequest where it cannot."""
    own = folder / source.name
    own.mkdir(parents=True, exist_ok=True)
    messages = []
    for position, message in enumerate(source.messages):
        entry: dict[str, Any] = {"role": message.role}
        if message.body is not None:
            entry |= _place(source, message, position)
            (own / entry["template"]).write_text(message.body, "utf-8", newline="")
        messages.append(entry)
    for name, body in source.includes.items():
        file = folder / f"{name}.j2"
        if not name.startswith(f"{SHARED}/") or "/" in name.removeprefix(f"{SHARED}/"):
            raise InvalidRequest(f"{source.name}: the include `{name}` is not `{SHARED}/…`.", code="not_a_file")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(body, "utf-8", newline="")
    facts = {k: v for k, v in read.facts(source).items() if v is not None}
    table = {k: v for k, v in facts.items() if k not in ("name", "includes", "goldens", "messages")}
    table |= {"messages": messages, **({"golden": facts["goldens"]} if facts["goldens"] else {})}
    try:
        (own / "recipe.toml").write_text(tomli_w.dumps(table), "utf-8")
    except TypeError as exc:
        raise InvalidRequest(f"{source.name}: has a null, which TOML cannot hold.", code="not_toml") from exc


def _place(source: RecipeSource, message: MessageSource, position: int) -> dict[str, str]:
    """The file of a message, and its template's name where the file does not tell it."""
    name = message.template or ""
    short = name.removeprefix(f"{source.name}/")
    if short != name and "/" not in short:
        return {"template": f"{short}.j2"}
    return {"template": f"{message.role}-{position}.j2", "name": name}


def _state(folder: Path) -> dict[str, str]:
    file = folder / STATE
    return dict(json.loads(file.read_text("utf-8"))) if file.exists() else {}


def _remember(folder: Path, agreed: Mapping[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / STATE).write_text(json.dumps(agreed, indent=2, sort_keys=True) + "\n", "utf-8")
