"""Run a command so that it cannot outlive its parent: `python leash.py GRACE_SECONDS LOG LOG_BYTES command…`.

The parent holds the other end of this process's standard input. When the parent dies, however it dies, that end
closes; the whole process group is then ended (SIGTERM, after GRACE_SECONDS SIGKILL). The same on SIGTERM and SIGINT,
which are passed on as they came; a second one goes to the command alone.
When the command ends by itself, what it left in the group is ended too and its exit status is passed on.
What the command writes comes through a pipe and goes to LOG, which is rotated while it runs (core/process/log_file.py);
where LOG is empty, it writes where this process does.
Standard library only: it starts in milliseconds and holds a few megabytes.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

if __name__ == "__main__":  # run as a file, it knows no package
    sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
from core.process import log_file

POLL_SECONDS = 0.05
LAST_LINES_SECONDS = 1.0  # to read them in; a process that left the group may hold the pipe open for ever


def main(grace: float, log: str, log_bytes: int, command: list[str]) -> int:
    group = os.getpgid(0)
    if group != os.getpid():
        sys.exit("leash: must lead its own process group")
    told = 0  # the signal that came

    def stop(number: int, _: object) -> None:
        nonlocal told
        told = number

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        output, errors = (subprocess.PIPE, subprocess.STDOUT) if log else (None, None)
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=errors)
    except OSError as exc:
        sys.stderr.write(f"cannot start {command[0]}: {exc.strerror}\n")
        return 127
    reader = None
    if child.stdout:
        reader = threading.Thread(target=log_file.keep, args=(child.stdout.fileno(), log, log_bytes), daemon=True)
        reader.start()
    while child.poll() is None and not told and not _parent_gone(POLL_SECONDS):
        pass
    _end_group(group, child, grace, told or signal.SIGTERM)
    if reader:
        reader.join(LAST_LINES_SECONDS)
    try:  # a process whose first thread has ended is a zombie before it can be waited for
        code = child.wait(LAST_LINES_SECONDS)
    except subprocess.TimeoutExpired:
        return 143
    return 128 - code if code < 0 else code


def _parent_gone(wait: float) -> bool:
    """Whether standard input has closed; waits for it so many seconds."""
    readable, _, _ = select.select([0], [], [], wait)
    return bool(readable) and not os.read(0, 1024)


def _end_group(group: int, child: "subprocess.Popen[bytes]", grace: float, told: int) -> None:
    """Signal all, after the grace SIGKILL what is left; returns when only this process is."""
    signal.signal(told, signal.SIG_IGN)
    os.killpg(group, told)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: child.send_signal(number))
    deadline = time.monotonic() + grace
    while others := _others(group):
        if time.monotonic() >= deadline:
            for pid in others:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(POLL_SECONDS)
        child.poll()


def _others(group: int) -> list[int]:
    """The living processes of the group but this one."""
    me = os.getpid()
    return [pid for pid, pgid, state in _processes() if pid != me and pgid == group and state != "Z"]


def _processes() -> Iterator[tuple[int, int, str]]:
    """(pid, process group, state) of every process: from /proc, or from `ps` where there is none."""
    if os.path.isdir("/proc/self"):
        for name in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat") as file:
                state, _, pgid = file.read().rpartition(")")[2].split()[:3]
                yield int(name), int(pgid), state
        return
    with subprocess.Popen(["ps", "-A", "-o", "pid=,pgid=,stat="], stdout=subprocess.PIPE, text=True) as ps:
        assert ps.stdout is not None
        for line in ps.stdout:
            pid, pgid, state = line.split()
            if int(pid) != ps.pid:
                yield int(pid), int(pgid), state[0]


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4:]))
