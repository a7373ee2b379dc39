"""Workers that are asked whether they are ready: what they say counts, who is silent is left alone, drains finish."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from orchestrator.workers.breaker import Breaker
from tests.fakes.studio import WORKER_KEY, Studio, studio_over
from tests.fakes.upstream import Exchange, recording_upstream, saying
from tests.fakes.wait import answers, eventually
from tests.orchestrator.test_pools import ASK, pools_of, worker

CHAT = {"model": "small", "messages": [{"role": "user", "content": "one two"}]}
slow = pytest.mark.slow


def test_a_probe_closes_only_what_silence_opened() -> None:
    silent, failing = Breaker(), Breaker()
    silent.failed(0.0, surely=True)
    for _ in range(3):
        failing.failed(0.0)
    assert (silent.answered(), silent.state(0.1)) == (True, "closed")
    assert (failing.answered(), failing.state(0.1)) == (False, "open"), "it answers probes, and fails requests"


async def test_silence_opens_the_breakers_of_all_and_the_last_are_asked_all_the_same() -> None:
    a, b = worker("a", 9), worker("b", 9)
    pools = pools_of(a, b)
    pools.probe_failed(a, surely=True)
    assert (await pools.take(ASK)).worker is b
    pools.probe_failed(b, surely=True)
    assert (await pools.take(ASK)).worker is a, "both are left alone, and the less loaded is asked"
    assert [each.breaker.lets_in(0) for each in (a, b)] == [False, False]
    pools.probe_answered(b, ready=True)
    assert [(await pools.take(ASK)).worker for _ in range(2)] == [b, b]


async def test_one_slow_answer_ejects_nobody() -> None:
    a, b = worker("a"), worker("b")
    pools = pools_of(a, b)
    pools.probe_failed(a, surely=False)
    assert a.breaker.state(0.0) == "closed"


async def test_who_waits_is_served_when_a_worker_says_that_it_is_ready() -> None:
    a, b = worker("a"), worker("b")
    pools = pools_of(a, b)
    pools.probe_answered(a, ready=False)
    place = await pools.take(ASK)
    assert place.worker is b
    waits = asyncio.ensure_future(pools.take(ASK))
    await asyncio.sleep(0)
    pools.probe_answered(a, ready=True)
    assert (await waits).worker is a


# -- over HTTP --------------------------------------------------------------------------------------------------------


async def state(studio: Studio, name: str) -> dict[str, Any]:
    listed = (await studio.get("/v1/workers")).json()["data"]
    found: dict[str, Any] = next(each for each in listed if each["id"] == name)
    return found


@slow
async def test_a_worker_that_hangs_delays_no_other_and_one_that_is_not_ready_gets_nothing(
    migrated_dsn: str, tmp_path: Path
) -> None:
    """Both announce themselves as ready; what they say when they are asked counts."""

    async def hang(exchange: Exchange) -> None:
        await exchange.peer_left()

    async with (
        recording_upstream() as hanging,
        recording_upstream() as lying,
        studio_over(migrated_dsn, tmp_path, ready_probe_seconds=0.1, probe_timeout_seconds=1) as studio,
    ):
        hanging.script = hang
        lying.script = saying(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")
        await studio.register("hangs", str(hanging.url).rstrip("/"))
        await studio.register("lies", str(lying.url).rstrip("/"))
        worker = await studio.chat_worker("serves")

        async def known() -> bool:
            return not (await state(studio, "lies"))["probed_ready"] and (
                (await state(studio, "hangs"))["breaker"] != "closed"
            )

        await answers(known, "the silence of one, the word of the other")
        await eventually(lambda: len(hanging.received) >= 4, "more questions")
        before = [received.line for received in lying.received]
        for _ in range(6):
            assert (await studio.post("/v1/chat/completions", CHAT)).status_code == 200
        assert len(await worker.received()) == 6
        assert set(before) == {b"GET /v1/models HTTP/1.1"}


@slow
async def test_a_worker_that_comes_back_is_asked_for_work_by_a_probe_not_by_a_trial(
    migrated_dsn: str, tmp_path: Path
) -> None:
    async with studio_over(migrated_dsn, tmp_path, ready_probe_seconds=0.1) as studio:
        upstream_port = 0
        async with recording_upstream() as upstream:
            upstream_port = upstream.port
            upstream.script = saying(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n")  # it has no such page: it lives
            await studio.register("w", f"http://127.0.0.1:{upstream_port}")
            await eventually(lambda: upstream.received, "a question")
            assert (await state(studio, "w"))["breaker"] == "closed"

        async def left_alone() -> bool:
            return bool((await state(studio, "w"))["breaker"] != "closed")

        await answers(left_alone, "its breaker")


@slow
async def test_a_drained_worker_finishes_what_it_has(migrated_dsn: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {"lease_seconds": 600}
    async with (
        studio_over(migrated_dsn, tmp_path, **given) as studio,
        studio_over(migrated_dsn, tmp_path, **given) as other,
    ):
        first, second = await studio.chat_worker("a"), await studio.chat_worker("b")
        await first.behave(token_seconds=0.2)
        await second.behave(token_seconds=0.2)
        running = [asyncio.ensure_future(studio.post("/v1/chat/completions", CHAT)) for _ in range(2)]

        async def both() -> bool:
            return [(await state(studio, name))["outstanding"] for name in ("a", "b")] == [1, 1]

        await answers(both, "one request at each")
        headers = {"authorization": f"Bearer {studio.key}"}
        assert (await studio.http.put("/v1/workers/a/drain", headers=headers)).json() == {"id": "a", "drained": True}
        assert {answer.status_code for answer in await asyncio.gather(*running)} == {200}
        await studio.register("a", first.url)  # a heartbeat changes nothing
        for _ in range(3):
            assert (await studio.post("/v1/chat/completions", CHAT)).status_code == 200
        assert (len(await first.received()), len(await second.received())) == (1, 4)

        async def known() -> bool:
            return bool((await state(other, "a"))["drained"])

        await answers(known, "the drain at another orchestrator")
        assert (await studio.http.delete("/v1/workers/a/drain", headers=headers)).json()["drained"] is False
        assert (await state(studio, "a"))["drained"] is False
        assert (await studio.http.put("/v1/workers/nobody/drain", headers=headers)).status_code == 404
        of_workers = {"authorization": f"Bearer {WORKER_KEY}"}
        assert (await studio.http.put("/v1/workers/a/drain", headers=of_workers)).status_code == 403
