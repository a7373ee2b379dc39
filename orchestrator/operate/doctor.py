"""Look at this machine and at the studio on it; say what is wrong and what to do about it.

Nothing is started and nothing is changed. Exit status: 0 where nothing stands in the way, 1 where something does, 2 for
a wrong command line.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import httpx2
import psycopg

from core import untrusted
from core.commands import Commands
from core.db.migrate import bundled
from core.errors import SoundstageError
from core.settings import SettingsError
from orchestrator.operate.checks import Finding, answers, check_machine, has_embedded_postgres
from orchestrator.operate.remote import local_key
from orchestrator.settings import OrchestratorSettings

LEAST_POSTGRES = 15
SIGNS = {"ok": "ok  ", "warn": "warn", "fail": "FAIL"}


def add_command(commands: Commands) -> None:
    parser = commands.add_parser("doctor", help="check this machine and the studio on it", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON: {ok, findings: [{check, state, says, todo}]}")


def run(given: argparse.Namespace) -> int:
    """The exit status; findings are printed as they come, or as JSON at the end."""
    found = []
    for finding in findings():
        found.append(finding)
        if not given.json:
            sys.stdout.write(line_of(finding))
    good = all(finding.state != "fail" for finding in found)
    if given.json:
        sys.stdout.write(json.dumps({"ok": good, "findings": [asdict(each) for each in found]}, indent=2) + "\n")
    else:
        sys.stdout.write("\nNothing stands in the way.\n" if good else "\nMend what is marked FAIL.\n")
    return 0 if good else 1


def line_of(finding: Finding) -> str:
    todo = f"      → {finding.todo}\n" if finding.todo else ""
    return f"{SIGNS[finding.state]}  {finding.check}: {finding.says}\n{todo}"


def findings() -> Iterator[Finding]:
    """The settings first: without them nothing else can be looked at."""
    try:
        settings = OrchestratorSettings.load()
    except SettingsError as exc:
        yield Finding("settings", "fail", str(exc), "Correct it in the environment or in the settings file.")
        return
    yield Finding("settings", "ok", "They can be read.")
    yield from check_machine(settings.data_dir.resolve(), os.environ)
    yield database(settings)
    yield from studio(settings)


def database(settings: OrchestratorSettings) -> Finding:
    """Whether DATABASE_URL answers, how fast, and whether this version's migrations fit it."""
    if settings.database_url is None:
        if has_embedded_postgres():
            return Finding("database", "ok", "No DATABASE_URL: an embedded Postgres in DATA_DIR is used.")
        return Finding(
            "database", "fail", "There is no embedded Postgres here.", "Run `make install`, or set DATABASE_URL."
        )
    began = time.perf_counter()
    try:
        with psycopg.connect(settings.database_url.get_secret_value(), connect_timeout=5) as connection:
            took = (time.perf_counter() - began) * 1000
            version = connection.info.server_version // 10_000
            return judge_database(version, took, _migrations_in(connection))
    except psycopg.Error as exc:
        todo = "Check DATABASE_URL, the network and the server's own log."
        return Finding("database", "fail", f"It does not answer: {str(exc).strip().splitlines()[0]}", todo)


def _migrations_in(connection: psycopg.Connection[Any]) -> dict[str, str]:
    """The migrations that the database has, version to hash; empty for a new one."""
    there = connection.execute("select to_regclass('schema_migrations')").fetchone()
    if there is None or there[0] is None:
        return {}
    return dict(connection.execute("select version, sha256 from schema_migrations").fetchall())


def judge_database(version: int, milliseconds: float, applied: dict[str, str]) -> Finding:
    says = f"Postgres {version} answers in {milliseconds:.0f} ms."
    if version < LEAST_POSTGRES:
        return Finding("database", "fail", says, f"Postgres {LEAST_POSTGRES} or later is needed.")
    known = {migration.version: migration.sha256 for migration in bundled()}
    if changed := sorted(v for v, sha in applied.items() if known.get(v, sha) != sha):
        todo = "Use the version of the studio that made it, or restore a backup."
        return Finding("database", "fail", f"{says} It was made by other migrations: {', '.join(changed)}.", todo)
    if newer := sorted(set(applied) - set(known)):
        todo = "It is newer than this version of the studio: upgrade this one."
        return Finding("database", "warn", f"{says} It has migrations unknown here: {', '.join(newer)}.", todo)
    missing = len(set(known) - set(applied))
    return Finding(
        "database", "ok", says + (f" {missing} migrations are applied at the next start." if missing else "")
    )


def studio(settings: OrchestratorSettings) -> Iterator[Finding]:
    """The orchestrator that runs here, and its workers."""
    if not answers(settings.port):
        yield Finding("orchestrator", "ok", f"None runs at {settings.port}. `make up` starts the whole studio.")
        return
    try:
        root = f"http://127.0.0.1:{settings.port}"
        ready = httpx2.get(f"{root}/readyz", timeout=5, trust_env=False)
        key = {"authorization": f"Bearer {local_key(settings)}"}
        listed = httpx2.get(f"{root}/v1/workers", headers=key, timeout=5, trust_env=False)
        listed.raise_for_status()
        yield judge_readiness(untrusted.decoded(ready.content))
        yield from judge_workers(untrusted.decoded(listed.content)["data"])
    except (httpx2.HTTPError, OSError, SoundstageError, LookupError, TypeError, AttributeError) as exc:
        todo = "Is the local key in DATA_DIR that orchestrator's? Else set SOUNDSTAGE_API_KEY."
        yield Finding("orchestrator", "warn", f"It runs, and could not be asked: {exc}", todo)


def judge_readiness(told: dict[str, Any]) -> Finding:
    if told["ready"]:
        return Finding("orchestrator", "ok", "It runs and is ready.")
    detail = ", ".join(f"{name}: {value}" for name, value in told.items() if name != "ready")
    return Finding("orchestrator", "fail", f"It runs and is not ready: {detail}.", "See docs/incidents.md.")


def judge_workers(workers: list[dict[str, Any]]) -> Iterator[Finding]:
    if not workers:
        yield Finding("workers", "warn", "No worker is registered.", "Start one: docs/add-a-worker.md.")
    for worker in workers:
        says = f"{worker['kind']}, {worker['url']}, {worker['outstanding']} of {worker['capacity']} places taken"
        check = f"worker {worker['id']}"
        if worker["breaker"] != "closed":
            yield Finding(check, "warn", f"{says}; it fails and is left alone.", "Read its log; docs/incidents.md.")
        elif not worker["ready"]:
            yield Finding(check, "warn", f"{says}; it is not ready.", "It may be loading. Else read its log.")
        else:
            yield Finding(check, "ok", f"{says}.")
