"""The orchestrator: the one service that callers see. It checks keys, applies policy, renders prompts, picks workers
and records what was run; its state is in Postgres (DATABASE_URL, else an embedded one in DATA_DIR).

`doctor` looks at this machine; `plan` says which model runs on which card; `backup` and `restore` move the whole
studio; `keys`, `aliases`, `workers` and `jobs` ask an orchestrator that runs, with an admin key.
`COMMAND --help` tells more.
"""

import argparse
import asyncio
import contextlib
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

from core import commands, core_files, logs
from core.db.embedded import DatabaseError, embedded_postgres
from core.db.migrate import MigrationError
from core.http.exposition import Place, socket_of
from core.http.processes import Processes, reserved
from core.http.serving import bind, serve_on
from core.process.child import Command
from core.settings import SettingsError
from orchestrator.access import cli as keys_cli
from orchestrator.jobs import cli as jobs_cli
from orchestrator.operate import backup, doctor, plan
from orchestrator.settings import OrchestratorSettings
from orchestrator.workers import cli as workers_cli

PLACE = "SOUNDSTAGE_PLACE"
"""Where one of several processes learns its place: FOLDER:PLACE:COUNT."""
END_SECONDS = 30.0  # for what a process ends after its requests


def parser() -> argparse.ArgumentParser:
    whole, verbs = commands.parser("orchestrator", __doc__)
    verbs.add_parser("openapi", help="print the API as an OpenAPI document (JSON), as with the default settings")
    keys_cli.add_commands(verbs)
    workers_cli.add_commands(verbs)
    jobs_cli.add_commands(verbs)
    doctor.add_command(verbs)
    plan.add_command(verbs)
    backup.add_commands(verbs)
    return whole


def main(arguments: list[str] | None = None) -> None:
    given = parser().parse_args(arguments)
    if given.command == "doctor":
        sys.exit(doctor.run(given))
    if given.command == "plan":
        sys.exit(plan.run(given))
    if given.command == "openapi":
        print(asyncio.run(openapi()))
        return
    try:
        settings = OrchestratorSettings.load()
    except SettingsError as exc:
        sys.exit(f"settings: {exc}")
    if "run" in given:
        sys.exit(given.run(given, settings))
    if given.command == "settings":
        commands.print_settings(settings, as_json=given.json)
        return
    core_files.none_left()
    logs.configure(settings.log_level, settings.log_format)
    try:
        status = _run(serve_all(settings) if settings.processes > 1 else serve(settings))
    except (DatabaseError, MigrationError, SettingsError) as exc:
        sys.exit(str(exc))
    sys.exit(status)


async def serve(settings: OrchestratorSettings) -> int:
    """One orchestrator, alone or at its place among several. Returns the exit status."""
    named = os.environ.get(PLACE)
    sock = bind(settings.host, settings.port, shared=named is not None)
    from orchestrator.app import create_app  # loads everything; the other commands need little of it
    from orchestrator.operate import tracing

    async with _database(settings) as dsn:
        app = create_app(settings, dsn, tracing.from_environment())
        if named is None:
            return await serve_on(app, sock, settings)
        folder, at, count = named.rsplit(":", 2)
        place = Place(Path(folder), int(at), int(count))
        app.exposition = place.exposition
        with contextlib.closing(place):
            return await serve_on(app, sock, settings, started=place.open)


async def serve_all(settings: OrchestratorSettings) -> int:
    """PROCESSES orchestrators on one port. Returns the exit status."""
    with reserved(settings.host, settings.port) as port, tempfile.TemporaryDirectory(prefix="soundstage-") as name:
        folder = Path(name)
        grace = settings.stop_delay_seconds + settings.stop_seconds + settings.queue_drain_seconds + END_SECONDS
        async with _database(settings) as dsn:

            def command(place: int) -> Command:
                own = {"PROCESSES": "1", "PORT": str(port), "DATABASE_URL": dsn, **settings.part_of(place)}
                env = {**own, PLACE: f"{folder}:{place}:{settings.processes}"}
                return Command("orchestrator", (sys.executable, "-m", "orchestrator"), None, env=env, grace=grace)

            return await Processes(settings.processes, command, partial(socket_of, folder)).run()


@contextlib.asynccontextmanager
async def _database(settings: OrchestratorSettings) -> AsyncIterator[str]:
    """DATABASE_URL, else an embedded one that lives as long as this process."""
    if settings.database_url is not None:
        yield settings.database_url.get_secret_value()
        return
    async with embedded_postgres(settings.data_dir.resolve() / "postgres") as dsn:
        yield dsn


async def openapi() -> str:
    """What the orchestrator publishes; the application is asked for it and never started."""
    import httpx2

    from orchestrator.app import create_app

    with tempfile.TemporaryDirectory() as folder:
        defaults = {name: field.default for name, field in OrchestratorSettings.model_fields.items()}
        app = create_app(OrchestratorSettings.load(**{**defaults, "data_dir": Path(folder)}), "postgresql:///none")
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://studio") as client:
            return (await client.get("/openapi.json")).raise_for_status().text


def _run(work: Coroutine[Any, Any, int]) -> int:
    if sys.platform == "win32":
        return asyncio.run(work)
    import uvloop

    return uvloop.run(work)


if __name__ == "__main__":
    main()
