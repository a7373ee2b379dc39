"""A child process ends whole, with us at the latest, and is started again when it ends by itself."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil  # type: ignore[import-untyped,unused-ignore]
import pytest
from prometheus_client import REGISTRY

from core.process import child as child_module
from core.process.child import Backoff, Child, Command, SupervisedChild
from tests.fakes import unruly
from tests.fakes.wait import eventually, soon

Make = Callable[..., Command]


def members(group: int) -> set[int]:
    """The living processes of a process group."""
    found = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.add(process.pid)
    return found


def ready(directory: Path) -> set[int]:
    """The unruly processes that are as they were told to be."""
    return {int(file.name) for file in directory.iterdir() if file.name.isdigit()}


@pytest.fixture
def command(tmp_path: Path) -> Make:
    def make(*flags: str, grace: float = 0.2, env: dict[str, str] | None = None) -> Command:
        argv = (sys.executable, "-I", "-S", unruly.__file__, *flags, str(tmp_path))
        return Command("unruly", argv, tmp_path / "logs" / "log", env=env or {}, grace=grace)

    return make


@pytest.mark.parametrize(
    ("flags", "size"),
    [((), 1), (("breed",), 2), (("deaf",), 1), (("breed", "deaf"), 2)],
    ids=["obedient", "with a grandchild", "deaf to SIGTERM", "deaf, with a deaf grandchild"],
)
async def test_stop_ends_the_whole_group(command: Make, tmp_path: Path, flags: tuple[str, ...], size: int) -> None:
    child = await Child.start(command(*flags))
    await eventually(lambda: len(ready(tmp_path)) == size, "the start of all")
    assert members(child.pid) == ready(tmp_path) | {child.pid}
    await soon(child.stop())
    assert not child.running
    assert members(child.pid) == set()


async def test_stop_may_be_said_twice_and_after_the_end(command: Make) -> None:
    child = await Child.start(command("exit=0"))
    await soon(child.wait())
    await soon(child.stop())
    await soon(child.stop())


@pytest.mark.parametrize("flags", [("abandon",), ("abandon", "deaf")], ids=["obedient", "deaf"])
async def test_a_grandchild_does_not_outlive_its_parent(command: Make, tmp_path: Path, flags: tuple[str, ...]) -> None:
    child = await Child.start(command(*flags))
    assert await soon(child.wait()) == 0, "the command's own status, however its leftovers ended"
    assert len(ready(tmp_path)) == 2
    assert members(child.pid) == set()


@pytest.mark.parametrize("status", [0, 1, 42])
async def test_the_exit_status_is_passed_on(command: Make, status: int) -> None:
    assert await soon((await Child.start(command(f"exit={status}"))).wait()) == status


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1], ids=lambda s: s.name)
async def test_death_by_signal_is_128_and_its_number(command: Make, tmp_path: Path, sent: signal.Signals) -> None:
    child = await Child.start(command())
    await eventually(lambda: ready(tmp_path), "the start")
    os.kill(ready(tmp_path).pop(), sent)
    assert await soon(child.wait()) == 128 + sent


async def test_a_signal_is_passed_on_as_it_came_and_so_is_a_second_one(tmp_path: Path) -> None:
    code = (
        "import pathlib, signal, sys, time\n"
        "here, got = pathlib.Path(sys.argv[1]), []\n"
        "def note(number, _):\n"
        "    got.append(number)\n"
        "    (here / f'{len(got)}-{number}').touch()\n"
        "for number in (signal.SIGINT, signal.SIGTERM): signal.signal(number, note)\n"
        "(here / 'ready').touch()\n"
        "while len(got) < 2: time.sleep(0.01)\n"
        "sys.exit(7)\n"
    )
    argv = (sys.executable, "-I", "-S", "-c", code, str(tmp_path))
    child = await Child.start(Command("signals", argv, None, grace=600))
    await eventually((tmp_path / "ready").exists, "the start")
    child.signal(signal.SIGINT)
    await eventually((tmp_path / f"1-{signal.SIGINT:d}").exists, "the first signal")
    child.signal(signal.SIGTERM)
    assert await soon(child.wait()) == 7
    assert (tmp_path / f"2-{signal.SIGTERM:d}").exists()


async def test_a_command_that_does_not_exist_ends_with_an_error(tmp_path: Path) -> None:
    log = tmp_path / "log"
    child = await Child.start(Command("missing", ("no-such-program-anywhere",), log))
    assert await soon(child.wait()) == 127
    assert "no-such-program-anywhere" in log.read_text()
    assert "Traceback" not in log.read_text()


async def test_the_command_gets_its_environment_and_directory_and_no_input(tmp_path: Path) -> None:
    code = "import os, sys; print(os.environ['OWN'], os.getcwd(), repr(sys.stdin.read()))"
    log = tmp_path / "log"
    here = tmp_path / "here"
    here.mkdir()
    child = await Child.start(Command("say", (sys.executable, "-c", code), log, env={"OWN": "mine"}, cwd=here))
    assert await soon(child.wait()) == 0
    assert log.read_text() == f"mine {here} ''\n"


async def test_both_outputs_go_to_the_log_which_grows_over_starts(command: Make, tmp_path: Path) -> None:
    for text in ("one", "two"):
        await soon((await Child.start(command(f"say={text}", "exit=0"))).wait())
    assert (tmp_path / "logs" / "log").read_text().split() == ["one", "one", "two", "two"]


async def test_a_log_grown_too_large_is_set_aside_once(command: Make, tmp_path: Path) -> None:
    log = tmp_path / "logs" / "log"
    log.parent.mkdir()
    with log.open("wb") as file:
        file.truncate(child_module.MAX_LOG_BYTES)
    await soon((await Child.start(command("say=new", "exit=0"))).wait())
    assert log.read_text().split() == ["new", "new"]
    assert log.with_name("log.1").stat().st_size == child_module.MAX_LOG_BYTES


async def test_a_log_is_rotated_while_its_writer_runs_and_loses_no_line(tmp_path: Path) -> None:
    """300 lines from two processes, of which three thousand bytes fit a file."""
    code = (
        "import subprocess, sys, time\n"
        "for i in range(100): print(f'line {i:03}', 'x' * 20, flush=True)\n"
        "subprocess.run([sys.executable, '-c', 'for i in range(100, 300): print(f\"line {i:03}\", \"x\" * 20)'])\n"
        "open(sys.argv[1], 'w').close()\n"
        "time.sleep(600)\n"
    )
    log, written = tmp_path / "log", tmp_path / "written"
    argv = (sys.executable, "-c", code, str(written))

    def arrived() -> bool:
        with contextlib.suppress(FileNotFoundError):  # it is not there while it is rotated
            return b"line 299" in log.read_bytes()
        return False

    child = await Child.start(Command("writer", argv, log, log_bytes=3000))
    try:
        await eventually(written.exists, "the last line")
        older = log.with_name("log.1")
        await eventually(arrived, "the last line's arrival")
        assert child.running
        sizes = [file.stat().st_size for file in (log, older)]
        assert all(size <= 3000 + 30 for size in sizes), sizes
        lines = (older.read_text() + log.read_text()).splitlines()
        numbers = [int(line.split()[1]) for line in lines]
        assert numbers == list(range(numbers[0], 300)), "what is kept is whole, in order, and the newest"
        assert {file.name for file in tmp_path.iterdir()} == {"log", "log.1", "written"}
    finally:
        await soon(child.stop())


async def test_the_last_words_of_a_child_are_in_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    argv = (sys.executable, "-c", "import sys; sys.stdout.write('x' * 200_000 + 'end'); sys.exit(3)")
    assert await soon((await Child.start(Command("last", argv, log))).wait()) == 3
    assert len(log.read_text()) == 200_003


@pytest.mark.parametrize("flags", [("breed",), ("breed", "deaf")], ids=["obedient", "deaf"])
async def test_the_group_is_gone_when_its_parent_is_killed(tmp_path: Path, flags: tuple[str, ...]) -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.fakes.keeper",
        "child",
        "0.2",
        str(tmp_path),
        *flags,
        stdout=asyncio.subprocess.PIPE,
    )
    assert parent.stdout is not None
    group = int(await soon(parent.stdout.readline()))
    await eventually(lambda: len(ready(tmp_path)) == 2, "the start of all")
    parent.kill()
    await soon(parent.wait())
    await eventually(lambda: not members(group), "the end of the group")


@contextlib.asynccontextmanager
async def running(kept: SupervisedChild) -> AsyncIterator[None]:
    task = asyncio.ensure_future(kept.run())
    try:
        yield
    finally:
        task.cancel()
        await soon(asyncio.wait([task]))
        assert task.cancelled()


def group_of(kept: SupervisedChild) -> int:
    assert kept.child is not None
    return kept.child.pid


class Exits:
    """Collects what `on_exit` is told."""

    def __init__(self) -> None:
        self.codes: asyncio.Queue[int] = asyncio.Queue()

    async def __call__(self, code: int) -> None:
        self.codes.put_nowait(code)


async def test_a_crashing_command_is_started_again_and_counted(command: Make) -> None:
    def starts() -> float:
        return REGISTRY.get_sample_value("soundstage_child_starts_total", {"child": "unruly"}) or 0

    exits, before = Exits(), starts()
    kept = SupervisedChild(lambda: command("exit=3"), on_exit=exits, first_backoff=0.001)
    async with running(kept):
        assert [await soon(exits.codes.get()) for _ in range(3)] == [3, 3, 3]
        assert kept.restarts >= 3
        assert kept.last_exit == 3
        assert starts() >= before + 3


async def test_the_command_is_asked_anew_at_each_start(command: Make, tmp_path: Path) -> None:
    plans = iter([command("exit=1"), command("exit=2"), command()])
    exits = Exits()
    async with running(SupervisedChild(lambda: next(plans), on_exit=exits, first_backoff=0.001)):
        assert [await soon(exits.codes.get()) for _ in range(2)] == [1, 2]
        await eventually(lambda: len(ready(tmp_path)) == 3, "the third start")


@pytest.mark.parametrize(
    ("lives", "waits"),
    [
        ([0, 0, 0, 0, 0], [1, 2, 4, 5, 5]),
        ([0, 0, 60, 0, 0], [1, 2, 1, 2, 4]),
        ([99, 99], [1, 1]),
        ([59.9, 59.9], [1, 2]),
    ],
    ids=["doubles to its limit", "a long life begins anew", "only long lives", "almost long"],
)
def test_backoff(lives: list[float], waits: list[float]) -> None:
    backoff = Backoff(first=1, longest=5, healthy=60)
    assert [backoff.after(lived) for lived in lives] == waits


async def test_a_killed_leash_takes_its_group_along_and_is_started_again(command: Make, tmp_path: Path) -> None:
    kept = SupervisedChild(lambda: command("breed", "deaf"), first_backoff=0.001)
    async with running(kept):
        await eventually(lambda: len(ready(tmp_path)) == 2, "the start of all")
        killed = group_of(kept)
        os.kill(killed, signal.SIGKILL)
        await eventually(lambda: len(ready(tmp_path)) == 4, "the next start of all")
        await eventually(lambda: not members(killed), "the end of what the leash held")
        assert (kept.restarts, kept.last_exit) == (1, -signal.SIGKILL)


async def test_cancelling_stops_the_child(command: Make, tmp_path: Path) -> None:
    kept = SupervisedChild(lambda: command("breed", "deaf"))
    async with running(kept):
        await eventually(lambda: len(ready(tmp_path)) == 2, "the start of all")
        group = group_of(kept)
    assert kept.child is None
    assert members(group) == set()
