"""A background task that ends by itself ends the service: /healthz says so, and the exit status is not 0."""

import asyncio
import logging

import pytest

from core.http.serving import FAILED, FAILED_GRACE_SECONDS
from core.watchers import Watchers, end
from tests.core.test_stop import LONG, Running, running
from tests.fakes.wait import answers, soon


async def for_ever() -> None:
    await asyncio.Event().wait()


async def ends() -> None:
    pass


async def fails() -> None:
    raise ValueError("a fault")


class Told:
    def __init__(self, watchers: Watchers) -> None:
        self.times = 0
        watchers.on_failure(self.tell)

    def tell(self) -> None:
        self.times += 1


async def finished(watchers: Watchers, name: str) -> None:
    await soon(asyncio.wait([watchers.tasks[name]]))
    await asyncio.sleep(0)  # its callbacks


@pytest.mark.parametrize("work", [ends, fails])
async def test_a_task_that_ends_is_a_failure_and_logged_as_critical(
    work: object, caplog: pytest.LogCaptureFixture
) -> None:
    async with Watchers() as watchers:
        told = Told(watchers)
        watchers.start("well", for_ever())
        watchers.start("ill", work())  # type: ignore[operator]
        await finished(watchers, "ill")
        assert (watchers.failed, told.times) == ("ill", 1)
    assert watchers.tasks["well"].cancelled()
    (record,) = caplog.records
    assert (record.levelno, record.task) == (logging.CRITICAL, "ill")  # type: ignore[attr-defined]
    assert told.times == 1, "that the others were stopped is no failure"


async def test_one_that_is_cancelled_from_elsewhere_is_a_failure() -> None:
    async with Watchers() as watchers:
        watchers.start("one", for_ever())
        watchers.tasks["one"].cancel()
        await finished(watchers, "one")
        assert watchers.failed == "one"


async def test_one_that_may_end_may_not_fail() -> None:
    async with Watchers() as watchers:
        watchers.start("load", ends(), may_end=True)
        await finished(watchers, "load")
        assert watchers.failed is None
        watchers.start("again", fails(), may_end=True)
        await finished(watchers, "again")
        assert watchers.failed == "again"


async def test_those_that_are_stopped_are_waited_for() -> None:
    left = []

    async def farewell() -> None:
        try:
            await for_ever()
        finally:
            await asyncio.sleep(0)
            left.append("farewell")

    async with Watchers() as watchers:
        watchers.start("one", farewell())
        await asyncio.sleep(0)
        watchers.cancel("one")
    assert (left, watchers.failed) == (["farewell"], None)


async def unwell(service: Running) -> bool:
    answer = await service.get(b"/healthz")
    return answer.status == 503 and answer.json() == {"status": "failed", "task": "ill"}


async def test_the_server_ends_without_the_delay_of_a_stop_and_its_status_tells() -> None:
    async with running(LONG) as (service, serving):
        assert (await service.get(b"/healthz")).status == 200
        service.hold = True  # as long as the test looks
        service.service.watchers.start("ill", fails())
        await answers(lambda: unwell(service), "a failed task")
        assert (await service.get(b"/readyz")).json() == {"ready": False, "failed": "ill"}
        service.hold = False
        await soon(serving)
        assert service.server.exit_status == FAILED
        assert service.server.config.timeout_graceful_shutdown == FAILED_GRACE_SECONDS
        assert service.forced == 1, "what hangs ends too"


async def test_a_server_that_was_stopped_ends_with_0() -> None:
    async with running(0.0) as (service, serving):
        service.service.watchers.start("well", for_ever())
        await service.service.watchers.stop()
    assert serving.done()
    assert (service.server.exit_status, service.forced) == (0, 0)


async def test_a_task_that_takes_a_cancellation_for_something_else_is_cancelled_again() -> None:
    times = 0

    async def hard_of_hearing() -> None:
        nonlocal times
        while times < 2:
            try:
                await for_ever()
            except asyncio.CancelledError:
                times += 1
        await for_ever()

    task = asyncio.create_task(hard_of_hearing())
    await asyncio.sleep(0)
    await soon(end([task], again=0.01))
    assert (times, task.cancelled()) == (2, True)
