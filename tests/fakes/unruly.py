"""A program that does as it is told, for whoever supervises processes: `python unruly.py [flag…] [DIRECTORY]`.

    exit=N      end at once with this status
    deaf        ignore SIGTERM
    breed       start a grandchild with the remaining flags but this, and wait for it
    abandon     start such a grandchild and end at once with status 0
    say=TEXT    write TEXT to standard output and error

Each process writes a file named by its pid into DIRECTORY once it is as it was told to be.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def main(flags: list[str], directory: str) -> int:
    if "deaf" in flags:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for flag in flags:
        if flag.startswith("say="):
            for output in (sys.stdout, sys.stderr):
                output.write(flag[4:] + "\n")
                output.flush()
    passed = [flag for flag in flags if flag not in ("breed", "abandon")]
    child = None
    if passed != flags:
        child = subprocess.Popen([sys.executable, "-I", "-S", __file__, *passed, directory])
    Path(directory, str(os.getpid())).touch()
    for flag in flags:
        if flag.startswith("exit="):
            return int(flag[5:])
    if child is not None and "abandon" in flags:
        while not Path(directory, str(child.pid)).exists():
            time.sleep(0.01)
        child.returncode = 0  # nobody waits for it: that is the point
        return 0
    while True:
        time.sleep(60)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:-1], sys.argv[-1]))
