"""A process in the line of a device: `python -m tests.fakes.device_holder FOLDER [child]`.

It joins, says `granted` when it has the device, and keeps it until it is killed. `child`: it has one on a leash that is
deaf to SIGTERM; it tells the leash's process id first.
"""

import asyncio
import contextlib
import sys
import tempfile
from pathlib import Path

from core.device.line import Line, LineBusyError, Standing
from core.process.child import Child, Command
from tests.fakes.wait import eventually

STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, lambda *_: None); print('up', flush=True); time.sleep(60)"
)


async def main(folder: Path, manner: list[str]) -> None:
    line = Line(folder, "holder")
    with tempfile.TemporaryDirectory() as logs:
        if "child" in manner:
            log = Path(logs, "log")
            argv = (sys.executable, "-I", "-S", "-c", STUBBORN)
            child = await Child.start(Command("stubborn", argv, log, grace=1.0, until_gone=(line.lock,)))
            await eventually(log.read_text, "the child's start")
            say(str(child.pid))
        standing: Standing | None = None
        while True:
            with contextlib.suppress(LineBusyError):
                before = standing
                standing = line.look() if standing else line.join()
                if standing.granted and not (before and before.granted):
                    say("granted")
            await asyncio.sleep(0.02)


def say(word: str) -> None:
    sys.stdout.write(word + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2:]))
