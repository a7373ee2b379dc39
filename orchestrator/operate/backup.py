"""`python -m orchestrator backup FILE` and `restore FILE`: prompts, runs, keys and pictures in one file, and back.

The file is a tar: `manifest.json` first, then the database as pg_dump writes it, then the folders `keys` and `blobs` of
DATA_DIR. It holds secrets, so only its owner may read it. A backup may be taken while the studio runs: the database's
part is one snapshot, and a picture never changes. Restoring needs an empty database and an empty DATA_DIR.
"""

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import sys
import tarfile
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import psycopg
from tqdm import tqdm  # type: ignore[import-untyped]

from core.commands import Commands
from core.db.embedded import DatabaseError, embedded_postgres
from core.db.tools import ToolError, contents_of_dump, run_tool, running_dsn, tables
from orchestrator.settings import OrchestratorSettings

FOLDERS = ("keys", "blobs")
DUMP, MANIFEST = "database.dump", "manifest.json"
SCHEMA = "public"  # on Supabase the other schemas are not ours to move
FORMAT = 1


class BackupError(RuntimeError):
    """A backup could not be made or restored; the message says why. What was there is as it was."""


def add_commands(commands: Commands) -> None:
    backup = commands.add_parser("backup", help="write prompts, runs, keys and pictures to one file")
    backup.add_argument("file", type=Path, help="the file to write; it must not exist yet")
    restore = commands.add_parser("restore", help="put a backup into an empty database and an empty DATA_DIR")
    restore.add_argument("file", type=Path, help="what `backup` wrote")
    for parser in (backup, restore):
        parser.add_argument("--json", action="store_true", help="print what was done as JSON")
        parser.set_defaults(run=run)


def run(given: argparse.Namespace, settings: OrchestratorSettings) -> int:
    """The exit status: 0, or 1 with the reason on standard error."""
    work = back_up if given.command == "backup" else restore
    try:
        manifest = asyncio.run(work(settings, given.file))
    except (BackupError, DatabaseError, ToolError, psycopg.Error, OSError, tarfile.TarError) as exc:
        sys.stderr.write(f"{given.command}: {exc}\n")
        return 1
    files = manifest["files"]
    if given.json:
        sys.stdout.write(json.dumps({"file": str(given.file), **manifest}, indent=2) + "\n")
    else:
        size = sum(each["bytes"] for each in files.values())
        sys.stdout.write(f"{given.command}: {given.file}, {len(files)} files, {size} bytes\n")
    return 0


async def back_up(settings: OrchestratorSettings, file: Path) -> dict[str, Any]:
    """Write `file` whole or not at all; its manifest. Raises BackupError and what `run` catches."""
    if file.exists():
        raise BackupError(f"{file} exists already.")
    if settings.blob_url is not None:
        sys.stderr.write(f"The pictures in {settings.blob_url} are not in this file: back the bucket up itself.\n")
    with tempfile.TemporaryDirectory(dir=file.absolute().parent, prefix=".backup-") as folder:
        dump, whole = Path(folder, DUMP), Path(folder, "whole.tar")
        async with _database(settings) as dsn:
            _check_studio(dsn)
            _say("database")
            run_tool(
                "pg_dump",
                dsn,
                "--format=custom",
                f"--file={dump}",
                f"--schema={SCHEMA}",
                "--no-owner",
                "--no-privileges",
            )
        found = {DUMP: dump, **dict(_files(settings.data_dir.resolve()))}
        manifest = {
            "format": FORMAT,
            "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "files": {name: {"sha256": _sha256(path), "bytes": path.stat().st_size} for name, path in found.items()},
        }
        note = Path(folder, MANIFEST)
        note.write_text(json.dumps(manifest), "utf-8")
        with (
            os.fdopen(os.open(whole, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as out,
            tarfile.open(fileobj=out, mode="w") as tar,
        ):
            for name, path in _with_progress({MANIFEST: note, **found}):
                tar.add(path, name)
        os.link(whole, file)  # unlike a rename, never over another file
    return manifest


async def restore(settings: OrchestratorSettings, file: Path) -> dict[str, Any]:
    """Its manifest. Everything is checked before anything is written. Raises BackupError and what `run` catches."""
    data_dir = settings.data_dir.resolve()
    if there := [name for name in FOLDERS if (data_dir / name).exists()]:
        raise BackupError(f"DATA_DIR is not empty: {data_dir} has {' and '.join(there)}.")
    data_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=data_dir, prefix=".restore-") as folder:
        _say("checking the file")
        manifest = _unpacked(file, Path(folder))
        async with _database(settings) as dsn:
            _check_empty(dsn)
            _say("database")
            _load(dsn, Path(folder))
        for name in FOLDERS:
            if Path(folder, name).exists():
                Path(folder, name).rename(data_dir / name)
    return manifest


@contextlib.asynccontextmanager
async def _database(settings: OrchestratorSettings) -> AsyncIterator[str]:
    """DATABASE_URL, else the embedded server: that which runs, or one for as long as the block runs."""
    directory = settings.data_dir.resolve() / "postgres"
    if settings.database_url is not None:
        yield settings.database_url.get_secret_value()
    elif (dsn := running_dsn(directory)) is not None:
        yield dsn
    else:
        async with embedded_postgres(directory) as started:
            yield started


def _check_studio(dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        if "tenants" not in tables(connection):
            raise BackupError("This database holds no studio.")


def _check_empty(dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        if "tenants" in tables(connection):
            raise BackupError("The database is not empty: it holds a studio already.")


def _load(dsn: str, folder: Path) -> None:
    """All of the dump or nothing; the schema `public` is there in every database."""
    kept = [line for line in contents_of_dump(folder / DUMP) if " SCHEMA - public " not in line]
    chosen = folder / "contents"
    chosen.write_text("\n".join(kept), "utf-8")
    options = ("--single-transaction", "--exit-on-error", "--no-owner", "--no-privileges", f"--use-list={chosen}")
    run_tool("pg_restore", dsn, *options, str(folder / DUMP))


def _files(data_dir: Path) -> Iterator[tuple[str, Path]]:
    """Each file of the folders, under its name in the backup."""
    for name in FOLDERS:
        for path in sorted((data_dir / name).rglob("*")):
            if path.is_file() and not path.is_symlink():
                yield path.relative_to(data_dir).as_posix(), path


def _unpacked(file: Path, folder: Path) -> dict[str, Any]:
    """Unpack and compare with the manifest. Raises BackupError where anything is missing, changed or not ours."""
    with tarfile.open(file) as tar:
        if any(PurePosixPath(name).parts[0] not in (MANIFEST, DUMP, *FOLDERS) for name in tar.getnames()):
            raise BackupError(f"{file} is no backup of the studio.")
        tar.extractall(folder, filter="data")
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text("utf-8"))
        expected = {name: each["sha256"] for name, each in manifest["files"].items()}
    except (OSError, ValueError, KeyError) as exc:
        raise BackupError(f"{file} is no backup of the studio.") from exc
    if manifest.get("format") != FORMAT:
        raise BackupError(f"{file} was written by another version of the studio.")
    found = {DUMP: folder / DUMP, **dict(_files(folder))}
    for name in sorted(expected.keys() | found.keys()):
        if name not in found or not found[name].exists() or _sha256(found[name]) != expected.get(name):
            raise BackupError(f"{file} is damaged: {name} is not what was backed up.")
    return manifest


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _with_progress(files: Mapping[str, Path]) -> Iterator[tuple[str, Path]]:
    """Each in turn, with a bar by bytes where standard error is a terminal."""
    _say(f"{len(files)} files")
    whole = sum(path.stat().st_size for path in files.values())
    with tqdm(total=whole, unit="B", unit_scale=True, leave=False, disable=None) as bar:
        for name, path in files.items():
            yield name, path
            bar.update(path.stat().st_size)


def _say(what: str) -> None:
    """Progress, for a person: not on standard output, which may be JSON."""
    sys.stderr.write(f"… {what}\n")
