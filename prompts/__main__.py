"""`python -m prompts`: prompts between a folder and the database, and the audit chain.

    python -m prompts pull FOLDER      write what changed in the database into the folder
    python -m prompts push FOLDER      make releases of what changed in the folder, and move the label there
    python -m prompts diff FOLDER      show what differs
    … --over NAME                      of a recipe that changed on both sides, let the side that is read win
    python -m prompts check FOLDER     check every recipe of the folder against the contract, without a database
    python -m prompts audit verify     compute the audit chain again; with --head, from a hash that was kept

The database is DATABASE_URL, or --database. Ends with 1 for a conflict, a difference (diff) or a broken chain.
"""

import argparse
import asyncio
import os
import sys
from pathlib import Path

from core.db.pool import Pool, open_pool
from core.errors import SoundstageError
from prompts import audit, contract, sync
from prompts.sources import read_folder
from prompts.store import PRODUCTION, Writer


def main(arguments: list[str] | None = None) -> int:
    given = _parser().parse_args(arguments)
    try:
        if given.command == "check":
            return _check(given.folder)
        if not given.database:
            sys.exit("Name the database: set DATABASE_URL or give --database.")
        return asyncio.run(_on_database(given))
    except SoundstageError as exc:
        sys.exit(exc.message)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m prompts", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("pull", "push", "diff", "check"):
        command = commands.add_parser(name)
        command.add_argument("folder", type=Path)
        if name != "check":
            command.add_argument("--label", default=PRODUCTION)
            command.add_argument("--tenant")
            command.add_argument("--database", default=os.environ.get("DATABASE_URL"))
        if name in ("pull", "push"):
            command.add_argument("--over", action="append", default=[], metavar="NAME", help="settle this conflict")
        if name == "push":
            command.add_argument("--author", default="cli", help="who is named in the audit chain")
    audited = commands.add_parser("audit")
    audited.add_argument("what", choices=("verify",))
    audited.add_argument("--head")
    audited.add_argument("--database", default=os.environ.get("DATABASE_URL"))
    return parser


def _check(folder: Path) -> int:
    for source in read_folder(folder):
        contract.check(source)
        print(f"{source.name}: fine")
    return 0


async def _on_database(given: argparse.Namespace) -> int:
    async with open_pool(given.database, size=2) as pool:
        if given.command == "audit":
            return await _verify(pool, given.head)
        return await _sync(pool, given)


async def _verify(pool: Pool, head: str | None) -> int:
    verdict = await audit.verify(pool, head)
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
    for entry in entries:
        print(f"{entry.name}: {entry.state}")
        if given.command == "diff" and entry.state != "same":
            print(entry.diff)
    if given.command == "diff":
        return int(any(entry.state != "same" for entry in entries))
    return int(any(entry.state == "conflict" and entry.name not in given.over for entry in entries))


if __name__ == "__main__":
    sys.exit(main())
