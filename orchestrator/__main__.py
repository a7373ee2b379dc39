"""`python -m orchestrator` runs the orchestrator; `settings` prints what it would run with.

`doctor` looks at this machine; `backup` and `restore` move the whole studio; all others ask an orchestrator that runs.
Most take --json. Exit status: 0 done, 1 refused or failed (the reason is on standard error), 2 a wrong command line.
"""

import argparse
import asyncio
import contextlib
import socket
import sys
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from core import core_files, logs
from core.db.embedded import DatabaseError, embedded_postgres
from core.db.migrate import MigrationError
from core.serving import bind, serve_on
from core.settings import SettingsError
from orchestrator import backup, doctor, jobs_cli, keys_cli, names_cli
from orchestrator.settings import OrchestratorSettings


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m orchestrator", description=__doc__)
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("serve", help="run the orchestrator (the default)")
    commands.add_parser("settings", help="every setting with its value, secrets masked")
    commands.add_parser("openapi", help="the API as an OpenAPI document, as with the default settings")
    keys_cli.add_commands(commands)
    names_cli.add_commands(commands)
    jobs_cli.add_commands(commands)
    doctor.add_command(commands)
    backup.add_commands(commands)
    given = parser.parse_args()
    if given.command == "doctor":
        sys.exit(doctor.run(given))
    if given.command == "openapi":
        print(asyncio.run(openapi()))
        return
    try:
        settings = OrchestratorSettings.load()
    except SettingsError as exc:
        sys.exit(f"settings: {exc}")
    if given.command == "keys":
        sys.exit(keys_cli.run(given, settings))
    if given.command == "jobs":
        sys.exit(jobs_cli.run(given, settings))
    if given.command in backup.COMMANDS:
        sys.exit(backup.run(given, settings))
    if given.command in names_cli.COMMANDS:
        sys.exit(names_cli.run(given, settings))
    if given.command == "settings":
        print("\n".join(f"{name}={value}" for name, value in settings.masked().items()))
        return
    core_files.none_left()
    logs.configure(settings.log_level, settings.log_format)
    sock = bind(settings.host, settings.port)
    try:
        _run(serve(settings, sock))
    except (DatabaseError, MigrationError, SettingsError) as exc:
        sys.exit(str(exc))


async def serve(settings: OrchestratorSettings, sock: socket.socket) -> None:
    """With DATABASE_URL on that database, else on an embedded one that lives as long as this process."""
    from orchestrator import tracing
    from orchestrator.app import create_app  # loads everything; the other commands need little of it

    async with contextlib.AsyncExitStack() as stack:
        if settings.database_url is not None:
            dsn = settings.database_url.get_secret_value()
        else:
            dsn = await stack.enter_async_context(embedded_postgres(settings.data_dir.resolve() / "postgres"))
        await serve_on(create_app(settings, dsn, tracing.from_environment()), sock, settings.stop_seconds)


async def openapi() -> str:
    """What the orchestrator publishes; the application is asked for it and never started."""
    import httpx2

    from orchestrator.app import create_app

    with tempfile.TemporaryDirectory() as folder:
        defaults = {name: field.default for name, field in OrchestratorSettings.model_fields.items()}
        app = create_app(OrchestratorSettings.load(**{**defaults, "data_dir": Path(folder)}), "postgresql:///none")
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://studio") as client:
            return (await client.get("/openapi.json")).raise_for_status().text


def _run(work: Coroutine[Any, Any, None]) -> None:
    if sys.platform == "win32":
        asyncio.run(work)
    else:
        import uvloop

        uvloop.run(work)


if __name__ == "__main__":
    main()
