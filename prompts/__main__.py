"""Prompts between a folder and the database, and the audit chain.

The database is --database, else DATABASE_URL, else the embedded one of the studio that runs in DATA_DIR.
Exit status: 0 done, 1 a conflict, a difference (diff), a broken chain or what is wrong with a recipe, 2 a wrong command
line.
"""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from core.db.changes import Writer
from core.db.pool import Pool, open_pool
from core.db.tools import running_dsn
from core.errors import SoundstageError
from prompts import audit, contract, sync
from prompts.sources import read_folder
from prompts.store import PRODUCTION

WHAT = {
    "pull": "write what changed in the database into the folder",
    "push": "make releases of what changed in the folder, and move the label there",
    "diff": "show what differs; 1 where something does",
    "check": "check every recipe of the folder against the contract, without a database",
}


def main(arguments: list[str] | None = None) -> int:
    given = parser().parse_args(arguments)
    try:
        if given.command == "check":
            return _check(given.folder, as_json=given.json)
        given.database = given.database or running_dsn(
            Path(os.environ.get("DATA_DIR") or "data").resolve() / "postgres"
        )
        if not given.database:
            sys.exit("No studio runs in DATA_DIR: set DATABASE_URL or give --database.")
        return asyncio.run(_on_database(given))
    except SoundstageError as exc:
        sys.exit(exc.message)


def parser() -> argparse.ArgumentParser:
    whole = argparse.ArgumentParser(
        prog="python -m prompts", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = whole.add_subparsers(dest="command", required=True)
    for name, what in WHAT.items():
        command = commands.add_parser(name, help=what, description=what)
        command.add_argument("folder", type=Path, help="where the recipes are, one folder each")
        if name != "check":
            command.add_argument("--label", default=PRODUCTION, help="of this label; the default is production")
            command.add_argument("--tenant", help="of this tenant's own recipes; without it: everyone's")
        if name in ("pull", "push"):
            command.add_argument(
                "--over", action="append", default=[], metavar="NAME", help="changed on both sides: what is read wins"
            )
        if name == "push":
            command.add_argument("--author", default="cli", help="who is named in the audit chain")
        _add_common(command, database=name != "check")
    audited = commands.add_parser("audit", help="compute the audit chain again")
    audited.add_argument("what", choices=("verify",), help="does every entry follow from the one before?")
    audited.add_argument("--head", help="a hash that was kept elsewhere: it must be in the chain")
    _add_common(audited)
    return whole


def _add_common(command: argparse.ArgumentParser, *, database: bool = True) -> None:
    if database:
        default = os.environ.get("DATABASE_URL")
        command.add_argument("--database", default=default, help="its DSN; see above for the default")
    command.add_argument("--json", action="store_true", help="print JSON")


def _check(folder: Path, *, as_json: bool) -> int:
    names = []
    for source in read_folder(folder):
        contract.check(source)
        names.append(source.name)
        if not as_json:
            print(f"{source.name}: fine")
    if as_json:
        print(json.dumps([{"name": name, "state": "fine"} for name in names], indent=2))
    return 0


async def _on_database(given: argparse.Namespace) -> int:
    async with open_pool(given.database, size=2) as pool:
        if given.command == "audit":
            return await _verify(pool, given.head, as_json=given.json)
        return await _sync(pool, given)


async def _verify(pool: Pool, head: str | None, *, as_json: bool) -> int:
    verdict = await audit.verify(pool, head)
    if as_json:
        print(json.dumps(asdict(verdict) | {"whole": verdict.whole}, indent=2))
        return 0 if verdict.whole else 1
    if verdict.whole:
        print(f"whole: {verdict.entries} entries, head {verdict.head}")
        return 0
    print(f"broken at entry {verdict.broken_at}: {verdict.why}")
    return 1


async def _sync(pool: Pool, given: argparse.Namespace) -> int:
    if given.command == "pull":
        entries = await sync.pull(pool, given.folder, label=given.label, tenant=given.tenant, over=given.over)
    elif given.command == "push":
        writer = Writer(given.author, given.tenant)
        entries = await sync.push(pool, given.folder, writer, label=given.label, over=given.over)
    else:
        entries = await sync.compare(pool, given.folder, label=given.label, tenant=given.tenant)
    _print_entries(entries, diff=given.command == "diff", as_json=given.json)
    if given.command == "diff":
        return int(any(entry.state != "same" for entry in entries))
    return int(any(entry.state == "conflict" and entry.name not in given.over for entry in entries))


def _print_entries(entries: Sequence[sync.Entry], *, diff: bool, as_json: bool) -> None:
    if as_json:
        rows = [{"name": e.name, "state": e.state, **({"diff": e.diff} if diff else {})} for e in entries]
        print(json.dumps(rows, indent=2))
        return
    for entry in entries:
        print(f"{entry.name}: {entry.state}")
        if diff and entry.state != "same":
            print(entry.diff)


if __name__ == "__main__":
    sys.exit(main())
