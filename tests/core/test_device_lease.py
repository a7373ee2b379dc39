"""Two workers on one device: they use it by turns, and no wait is without end."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from core.device.lease import DeviceLease, Terms, line_of
from core.device.line import Line
from core.errors import Overloaded, SoundstageError, Unavailable
from core.settings import DeviceSettings, SettingsError
from tests.fakes.wait import eventually, soon


class Worker:
    """Takes the device and gives it, and says so in a diary that all share."""

    def __init__(self, name: str, folder: Path, diary: list[str], terms: Terms) -> None:
        self.name, self.diary = name, diary
        self.fails: SoundstageError | None = None
        self.lease = DeviceLease(Line(folder, name), terms, self._take, self._give)

    async def _take(self) -> None:
        if self.fails is not None:
            raise self.fails
        self.diary.append(f"{self.name} takes")

    async def _give(self) -> None:
        self.diary.append(f"{self.name} gives")

    async def once(self) -> None:
        async with self.lease.use():
            self.diary.append(f"{self.name} works")


Make = Callable[..., Worker]


@asynccontextmanager
async def running(*workers: Worker) -> AsyncIterator[None]:
    tasks = [asyncio.ensure_future(worker.lease.run()) for worker in workers]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await soon(asyncio.gather(*tasks, return_exceptions=True))


@pytest.fixture
def make(tmp_path: Path) -> Make:
    diary: list[str] = []

    def worker(name: str, **terms: float) -> Worker:
        return Worker(name, tmp_path, diary, Terms(**{"idle": 0.02, "poll": 0.01, **terms}))  # type: ignore[arg-type]

    return worker


async def test_one_alone_keeps_it(make: Make) -> None:
    chat = make("chat")
    async with running(chat):
        for _ in range(3):
            await soon(chat.once())
        assert chat.diary == ["chat takes", *["chat works"] * 3]
        assert chat.lease.report() == {"held": True, "others": 0, "waiting": 0}


async def test_an_idle_holder_gives_it_up_when_another_asks(make: Make) -> None:
    chat, image = make("chat"), make("image")
    async with running(chat, image):
        for worker in (chat, image, chat, image):
            await soon(worker.once())
    turns = [f"{name} {does}" for name in ("chat", "image") for does in ("takes", "works", "gives")]
    assert chat.diary == (turns * 2)[:-1]


async def test_never_both_under_traffic(make: Make) -> None:
    chat, image = make("chat", turn=0.05), make("image", turn=0.05)
    both = (chat, image)

    async def work(worker: Worker) -> None:
        async with worker.lease.use():
            assert not (others := both[1 - both.index(worker)]).lease.report()["held"], others.name
            await asyncio.sleep(0.005)

    async with running(*both):
        await soon(asyncio.gather(*(work(worker) for worker in both * 60)))
    last = ""
    for line in chat.diary:
        name, does = line.split()
        assert last != f"{name} takes" or does == "gives", "taken once, then given, before the other takes"
        last = line


async def test_after_its_turn_a_busy_holder_lets_nobody_in_and_ends_what_runs(make: Make) -> None:
    chat, image = make("chat", turn=0.05), make("image")
    gate, inside = asyncio.Event(), asyncio.Event()

    async def long() -> None:
        async with chat.lease.use():
            inside.set()
            await gate.wait()
            chat.diary.append("chat ends")

    async with running(chat, image):
        first = asyncio.ensure_future(long())
        await soon(inside.wait())
        other = asyncio.ensure_future(image.once())
        await eventually(lambda: not chat.lease._open, "the end of its turn")
        late = asyncio.ensure_future(chat.once())
        gate.set()
        await soon(asyncio.gather(first, other, late))
    assert chat.diary == [
        *("chat takes", "chat ends", "chat gives", "image takes", "image works", "image gives"),
        *("chat takes", "chat works"),
    ]


async def test_what_does_not_end_is_cut_off(make: Make) -> None:
    chat, image = make("chat", turn=0.02, drain=0.05), make("image")

    async def never() -> None:
        async with chat.lease.use():
            await asyncio.Event().wait()

    async with running(chat, image):
        stuck = asyncio.ensure_future(never())
        await eventually(lambda: chat.diary, "its turn")
        await soon(image.once())
        assert chat.diary == ["chat takes", "chat gives", "image takes", "image works"]
        stuck.cancel()
        await asyncio.wait([stuck])


async def test_waits_are_bounded(make: Make) -> None:
    """In time and in number; and one whose callers have left does not ask any more."""
    chat, image = make("chat"), make("image", wait=0.1, waiting=1)
    async with running(chat, image), chat.lease.use():
        waiting = asyncio.ensure_future(image.once())
        await eventually(lambda: chat.lease.report()["others"], "one in the line")
        with pytest.raises(Overloaded) as full:
            await image.once()
        with pytest.raises(Unavailable) as late:
            await soon(waiting)
        assert (full.value.code, late.value.code) == ("device_busy", "device_busy")
        assert late.value.headers() == [(b"retry-after", b"20")]
        await eventually(lambda: not chat.lease.report()["others"], "the end of the line")
        assert chat.diary == ["chat takes"]


async def test_who_leaves_while_waiting_is_forgotten(make: Make) -> None:
    chat, image = make("chat"), make("image")
    async with running(chat, image):
        async with chat.lease.use():
            waiting = asyncio.ensure_future(image.once())
            await eventually(lambda: image.lease.waiting, "one who waits")
            waiting.cancel()
            await asyncio.wait([waiting])
        await soon(chat.once())
    assert chat.diary == ["chat takes", "chat works"]


async def test_one_that_cannot_use_the_device_says_so_and_lets_it_go(make: Make) -> None:
    chat, image = make("chat"), make("image")
    image.fails = Unavailable("It does not fit.", code="model_failed")
    async with running(chat, image):
        with pytest.raises(Unavailable) as failed:
            await soon(image.once())
        assert failed.value.code == "model_failed"
        await soon(chat.once())
        image.fails = None
        await soon(image.once())


async def test_one_that_was_forgotten_gives_the_device_up_at_once(make: Make, tmp_path: Path) -> None:
    """As after a long sleep of the machine: its claim has expired while it worked."""
    chat = make("chat")
    async with running(chat), chat.lease.use():
        (tmp_path / "line.json").unlink()
        await eventually(lambda: chat.diary[-1] == "chat gives", "the end")
        await soon(chat.once())


async def test_one_that_stops_is_as_one_that_died(make: Make) -> None:
    chat, image = make("chat"), make("image")
    async with running(image):
        async with running(chat):
            await soon(chat.once())
        await soon(image.once())


def test_a_folder_that_cannot_be_is_a_wrong_setting(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="DEVICE_LEASE"):
        line_of(DeviceSettings.load(device_lease=tmp_path / "file" / "folder"), "chat")
    assert line_of(DeviceSettings.load(), "chat") is None
