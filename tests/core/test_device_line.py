"""Who has a shared device: decided in values, kept in a folder, ended by the death of real processes."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import psutil
import pytest

from core.device.line import Claim, Line, LineBusyError, Standing, settle
from tests.fakes.program import program
from tests.fakes.wait import eventually, soon


class Clock:
    """Time that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


A, B, C = (Claim(id, 1000.0) for id in "abc")
HELD = Claim("a", 1000.0, granted=990.0)


@pytest.mark.parametrize(
    ("line", "now", "dead", "after"),
    [
        ([], 1000, "", []),
        ([A, B], 1000, "", [Claim("a", 1000.0, 1000.0), B]),
        ([HELD, B], 1029, "", [HELD, B]),
        ([B, HELD], 1000, "", [B, HELD]),
        ([HELD, B, C], 1000, "a", [Claim("b", 1000.0, 1000.0), C]),
        ([HELD, B, C], 1000, "ab", [Claim("c", 1000.0, 1000.0)]),
        ([HELD, B, C], 1000, "b", [HELD, C]),
        ([HELD, Claim("b", 1005.0)], 1030, "", [Claim("b", 1005.0, 1030.0)]),
        ([HELD, B], 1030, "", []),
        ([A], 1000, "a", []),
    ],
    ids=[
        *("nobody", "the first has it", "who has it keeps it", "whoever has it", "the owner died", "two have died"),
        *("one who waited died", "it expired", "all expired", "a dead one gets nothing"),
    ],
)
def test_settle(line: list[Claim], now: float, dead: str, after: list[Claim]) -> None:
    assert settle(line, now, lambda id: id not in dead) == after


def test_request_grant_release(tmp_path: Path) -> None:
    one, two, three = (Line(tmp_path, name) for name in ("one", "two", "three"))
    assert one.join().granted is not None
    assert (two.join(), three.join()) == (Standing(None, 1), Standing(None, 2))
    assert one.look().behind == 2
    one.leave()
    assert (two.look().granted is not None, three.look().granted, one.look()) == (True, None, Standing(lost=True))
    one.join()  # at the end
    two.leave()
    assert (three.look().granted is not None, one.look()) == (True, Standing(None, 1))


def test_a_claim_that_is_not_renewed_expires(tmp_path: Path) -> None:
    clock = Clock()
    one, two = (Line(tmp_path, name, clock=clock, expiry=30) for name in ("one", "two"))
    one.join()
    two.join()
    clock.now += 29
    assert two.look().granted is None
    clock.now += 1
    assert two.look().granted == clock.now
    assert one.look().lost, "the owner learns it"
    clock.now += 29
    assert two.look().granted is not None, "a look renews"


def test_who_closes_counts_as_dead(tmp_path: Path) -> None:
    one, two = Line(tmp_path, "one"), Line(tmp_path, "two")
    one.join()
    two.join()
    one.close()
    assert two.look().granted is not None
    assert [file.name for file in (tmp_path / "owners").iterdir()] == [two.id], "nothing is left of the dead"


def test_a_line_that_is_being_written_is_not_waited_for(tmp_path: Path) -> None:
    one, two = Line(tmp_path, "one"), Line(tmp_path, "two")
    with one._alone(), pytest.raises(LineBusyError):
        two.join()
    assert two.join().granted is not None


def test_a_line_that_nobody_can_read_is_begun_anew(tmp_path: Path) -> None:
    one = Line(tmp_path, "one")
    one.join()
    (tmp_path / "line.json").write_bytes(b"[{")
    assert one.look().lost
    assert one.join().granted is not None


def holder(folder: Path, *manner: str) -> AbstractAsyncContextManager[Process]:
    return program(sys.executable, "-m", "tests.fakes.device_holder", str(folder), *manner, stdout=PIPE)


async def says(process: Process) -> str:
    assert process.stdout
    return (await soon(process.stdout.readline())).decode().strip()


async def joined(line: Line) -> Standing:
    while True:
        try:
            return line.join()
        except LineBusyError:
            await asyncio.sleep(0)


async def granted(line: Line) -> None:
    def found() -> bool:
        try:
            return line.look().granted is not None
        except LineBusyError:
            return False

    await eventually(found, "the grant")


@pytest.mark.slow
async def test_kill_9_of_the_owner_ends_its_lease(tmp_path: Path) -> None:
    mine = Line(tmp_path, "mine")
    async with holder(tmp_path) as owner:
        assert await says(owner) == "granted"
        assert (await joined(mine)) == Standing(None, 1)
        os.kill(owner.pid, signal.SIGKILL)
        await granted(mine)


@pytest.mark.slow
async def test_the_lease_of_a_killed_owner_ends_with_what_it_left_on_the_device(tmp_path: Path) -> None:
    """Its child is deaf to SIGTERM, and has the device until SIGKILL."""
    mine = Line(tmp_path, "mine")
    async with holder(tmp_path, "child") as owner:
        leash = psutil.Process(int(await says(owner)))
        (child,) = leash.children()
        assert await says(owner) == "granted"
        await joined(mine)
        os.kill(owner.pid, signal.SIGKILL)
        await granted(mine)
        assert not child.is_running(), "granted when it is gone, not before"


@pytest.mark.slow
async def test_an_owner_that_was_stopped_expires(tmp_path: Path) -> None:
    mine = Line(tmp_path, "mine", expiry=0.5)
    async with holder(tmp_path) as owner:
        assert await says(owner) == "granted"
        os.kill(owner.pid, signal.SIGSTOP)
        await joined(mine)
        await granted(mine)


@pytest.mark.slow
async def test_killed_at_random_the_line_goes_on(tmp_path: Path) -> None:
    """Four join; whoever has it is killed. Each gets its turn, and nobody has it with another."""
    async with holder(tmp_path) as a, holder(tmp_path) as b, holder(tmp_path) as c, holder(tmp_path) as d:
        waiting = {process: asyncio.ensure_future(says(process)) for process in (a, b, c, d)}
        while waiting:
            done, _ = await soon(asyncio.wait(waiting.values(), return_when=asyncio.FIRST_COMPLETED))
            assert [task.result() for task in done] == ["granted"]
            (owner,) = (process for process, task in waiting.items() if task in done)
            del waiting[owner]
            os.kill(owner.pid, signal.SIGKILL)
            await soon(owner.wait())
