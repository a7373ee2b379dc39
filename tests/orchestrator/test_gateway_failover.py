"""A worker that fails before the first byte is left for another; a full one is a 429 that says when to come again."""

import asyncio
from collections import Counter
from pathlib import Path

import openai
import pytest
from pydantic import AnyHttpUrl

from core.db.pool import make_pool
from core.errors import Overloaded
from core.wire.workers import Announcement, ServedModel
from orchestrator.workers.queue import ServiceTime
from orchestrator.workers.registry import WorkerPool
from orchestrator.workers.rules import Rules
from orchestrator.workers.worker import Ask
from tests.fakes.studio import Studio, studio_over
from tests.fakes.upstream import Exchange, Script, Upstream, recording_upstream, saying
from tests.fakes.wait import answers, soon

pytestmark = pytest.mark.slow

CHAT = {"model": "small", "messages": [{"role": "user", "content": "one two"}]}
DEAD = "http://127.0.0.1:9"


async def hang_up(exchange: Exchange) -> None:
    exchange.close()


async def reset(exchange: Exchange) -> None:
    exchange.reset()


FAILURES: dict[str, Script] = {
    "hangs up": hang_up,
    "resets": reset,
    "says 503": saying(b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n"),
}


@pytest.mark.parametrize("script", FAILURES.values(), ids=FAILURES.keys())
async def test_the_other_worker_answers(studio: Studio, upstream: Upstream, script: Script) -> None:
    upstream.script = script
    await studio.register("a", str(upstream.url))
    worker = await studio.chat_worker("b")
    for streamed in (False, True):
        answer = await studio.post("/v1/chat/completions", CHAT | {"stream": streamed})
        assert answer.status_code == 200
    assert (len(upstream.received), len(await worker.received())) == (2, 2), "each was asked once a request"


async def test_an_address_where_nobody_listens_is_passed_over(studio: Studio) -> None:
    await studio.register("a", DEAD)
    await studio.chat_worker("b")
    assert (await studio.post("/v1/chat/completions", CHAT)).status_code == 200


async def test_when_all_fail_each_was_asked_at_most_once(studio: Studio) -> None:
    """And no more than two of them: a bad request may not take down a whole pool."""
    async with recording_upstream() as one, recording_upstream() as two, recording_upstream() as three:
        for number, upstream in enumerate((one, two, three)):
            upstream.script = FAILURES["says 503"]
            await studio.register(f"w-{number}", str(upstream.url))
        with pytest.raises(openai.InternalServerError) as caught:
            await studio.sdk().chat.completions.create(model="small", messages=[])
        assert (caught.value.status_code, caught.value.code) == (503, "engine_unavailable")
        assert caught.value.response.headers["retry-after"] == "7"
        assert [len(upstream.received) for upstream in (one, two, three)] == [1, 1, 0]


async def test_other_answers_are_passed_on(studio: Studio, upstream: Upstream) -> None:
    """A refusal would be the same elsewhere, and a 500 may have cost something: neither is tried again."""
    worker = await studio.chat_worker("b")
    await studio.register("a", str(upstream.url))
    for status in (400, 404, 429, 500, 502):
        upstream.script = saying(b"HTTP/1.1 %d X\r\nContent-Length: 2\r\n\r\n{}" % status)
        answer = await studio.post("/v1/chat/completions", CHAT)
        assert (answer.status_code, answer.content) == (status, b"{}")
    assert await worker.received() == []


async def test_a_stream_that_began_is_not_begun_again(studio: Studio, upstream: Upstream) -> None:
    async def script(exchange: Exchange) -> None:
        event = b'data: {"n":1}\n\n'
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        await exchange.write(head + b"%x\r\n%s\r\n" % (len(event), event))
        exchange.close()

    upstream.script = script
    await studio.register("a", str(upstream.url))
    worker = await studio.chat_worker("b")
    answer = await studio.post("/v1/chat/completions", CHAT | {"stream": True})
    assert b'"n":1' in answer.content
    assert b"upstream_closed" in answer.content
    assert await worker.received() == []


async def test_a_worker_that_is_slow_to_begin_is_a_504(migrated_dsn: str, tmp_path: Path) -> None:
    async with studio_over(migrated_dsn, tmp_path, first_byte_seconds=0.1) as studio:
        worker = await studio.chat_worker("a")
        await worker.behave(first_token_seconds=30.0)
        answer = await studio.post("/v1/chat/completions", CHAT)
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "upstream_timeout")


async def test_requests_go_to_the_least_loaded(migrated_dsn: str, tmp_path: Path) -> None:
    async with studio_over(migrated_dsn, tmp_path, queue_max=0) as studio:
        await fills_evenly(studio)


async def fills_evenly(studio: Studio) -> None:
    workers = {name: await studio.chat_worker(name, capacity=size) for name, size in (("a", 1), ("b", 2), ("c", 4))}
    for worker in workers.values():
        await worker.behave(first_token_seconds=30.0)
    held = [asyncio.ensure_future(studio.post("/v1/chat/completions", CHAT)) for _ in range(7)]

    async def all_placed() -> bool:
        running = Counter({name: (await worker.state())["running"] for name, worker in workers.items()})
        return running.total() == 7

    await answers(all_placed)
    assert {name: (await worker.state())["running"] for name, worker in workers.items()} == {"a": 1, "b": 2, "c": 4}
    answer = await studio.post("/v1/chat/completions", CHAT)
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "workers_full")
    assert answer.headers["retry-after"] == "1"
    for task in held:
        task.cancel()
    await soon(asyncio.wait(held))


WAITS: dict[str, tuple[list[tuple[float, int]], float]] = {
    "one place that is held for 8 s": ([(8.0, 1)], 8.0),
    "four such places": ([(8.0, 4)], 2.0),
    "two workers free places together": ([(60.0, 1), (6.0, 1)], 60 / 11),
    "never more than the cap": ([(600.0, 1)], 30.0),
}


@pytest.mark.parametrize(("workers", "wanted"), WAITS.values(), ids=WAITS.keys())
async def test_how_long_a_full_pool_tells_to_wait(workers: list[tuple[float, int]], wanted: float) -> None:
    pool = WorkerPool(make_pool(""), None, 15, Rules(queue_max=0, retry_after_cap=30))
    for number, (seconds, capacity) in enumerate(workers):
        model = ServedModel(id="small", abilities=("chat",))
        url = AnyHttpUrl(f"http://w-{number}:1")
        announcement = Announcement(id=f"w-{number}", kind="chat", url=url, models=(model,), capacity=capacity)
        pool.add_static(announcement, None, {}, 60)
        worker = next(worker for worker in pool.live() if worker.id == announcement.id)
        worker.service, worker.outstanding = ServiceTime(seconds), capacity
    with pytest.raises(Overloaded) as caught:
        await pool.take(Ask("small", "chat"))
    assert caught.value.retry_after == pytest.approx(wanted)


async def test_a_full_worker_is_a_429_until_its_place_is_free(migrated_dsn: str, tmp_path: Path) -> None:
    async with studio_over(migrated_dsn, tmp_path, interface_retry_after_cap_ms=1000, queue_max=0) as studio:
        worker = await studio.chat_worker("a", capacity=1)
        await worker.behave(first_token_seconds=30.0)
        held = asyncio.ensure_future(studio.post("/v1/chat/completions", CHAT))

        async def placed() -> bool:
            return bool((await worker.state())["running"] == 1)

        await answers(placed)
        with pytest.raises(openai.RateLimitError) as caught:
            await studio.sdk().chat.completions.create(model="small", messages=[])
        assert (caught.value.code, caught.value.response.headers["retry-after"]) == ("workers_full", "1")
        held.cancel()
        await soon(asyncio.wait([held]))

        async def free() -> bool:
            return bool((await worker.state())["running"] == 0)

        await answers(free)
        await worker.behave(first_token_seconds=0.0)
        assert (await studio.post("/v1/chat/completions", CHAT)).status_code == 200, "its place is free again"
