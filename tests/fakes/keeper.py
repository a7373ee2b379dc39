"""A parent to be killed: `python -m tests.fakes.keeper child|postgres ARGUMENT…` starts one and says so.

child GRACE DIRECTORY FLAG…   a supervised `unruly` process, told these flags; prints the leash's pid
postgres DIRECTORY            an embedded Postgres; prints its DSN
"""

import asyncio
import sys
from pathlib import Path

from core.db.embedded import embedded_postgres
from core.process.child import Child, Command
from tests.fakes import unruly


async def child(grace: str, directory: str, *flags: str) -> None:
    argv = (sys.executable, "-I", "-S", unruly.__file__, *flags, directory)
    started = await Child.start(Command("unruly", argv, Path(directory, "log"), grace=float(grace)))
    _say(str(started.pid))
    await started.wait()


async def postgres(directory: str) -> None:
    async with embedded_postgres(Path(directory)) as dsn:
        _say(dsn)
        await asyncio.Event().wait()


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(child(*sys.argv[2:]) if sys.argv[1] == "child" else postgres(*sys.argv[2:]))
