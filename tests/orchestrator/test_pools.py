"""Places at workers, on the event loop but without HTTP: who gets one, who waits, what a failing worker costs."""

import asyncio
import time
from collections import Counter
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AnyHttpUrl
from yarl import URL

from core.errors import Overloaded, Unavailable, UpstreamTimeout
from core.wire.workers import Announcement, ServedModel
from orchestrator.workers.places import Place, Pools
from orchestrator.workers.rules import Rules
from orchestrator.workers.worker import Ask, Worker
from tests.fakes.wait import soon

ASK = Ask("small", "chat")


def worker(name: str, capacity: int = 1, **announced: Any) -> Worker:
    given = {"models": (ServedModel(id="small", abilities=("chat",)),), **announced}
    announcement = Announcement(id=name, kind="chat", url=AnyHttpUrl("http://w:1"), capacity=capacity, **given)
    return Worker(announcement, URL("http://w:1"), None, time.monotonic() + 3600)


def pools_of(*workers: Worker, **rules: Any) -> Pools:
    there = list(workers)
    pools = Pools(Rules(**rules), lambda: there)
    pools.changed()
    return pools


async def let_all_run() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def ended(place: Place, error: Exception | None = None) -> None:
    """The request at this place has ended."""
    try:
        with place:
            if error is not None:
                raise error
    except Unavailable:
        pass


ROUTED: dict[str, tuple[Ask, str]] = {
    "by the kind": (Ask("plain", "chat"), "power_of_two"),
    "by the model": (Ask("org/big", "chat"), "affinity"),
    "by another of its names": (Ask("big", "chat"), "affinity"),
    "by the pool": (Ask(None, "chat", "chat1to1"), "round_robin"),
    "by the kind, in a pool that is empty": (Ask(None, "chat", "scenes"), "power_of_two"),
}


@pytest.mark.parametrize(("ask", "wanted"), ROUTED.values(), ids=ROUTED.keys())
def test_each_pool_has_its_routing(ask: Ask, wanted: str) -> None:
    models = (
        ServedModel(id="org/big", aliases=("big",), abilities=("chat",)),
        ServedModel(id="plain", abilities=("chat",)),
    )
    there = worker("a", models=models, roles=("chat1to1",))
    of_pools = {"org/big": "affinity", "chat1to1": "round_robin", "scenes": "round_robin"}
    found = pools_of(there, routing={"chat": "power_of_two"}, of_pools=of_pools).pool(ask)
    assert found is not None
    assert found.strategy == wanted


async def test_what_others_ask_of_a_worker_makes_it_the_later_choice() -> None:
    """By what it tells at its heartbeats, which counts our own requests too; full it is by ours alone."""
    one, other = worker("a", 4, queue_depth=3), worker("b", 4)
    pools = pools_of(one, other)
    places = [await soon(pools.take(ASK)) for _ in range(8)]
    assert [place.worker.id for place in places] == ["b", "b", "b", "a", "b", "a", "a", "a"]
    one.update(one.announcement.model_copy(update={"queue_depth": 4}))
    assert one.elsewhere == 0, "those are ours"
    for place in places:
        ended(place)
    one.update(one.announcement.model_copy(update={"queue_depth": 2}))
    pools.refresh(one)
    pool = pools.pool(ASK)
    assert pool is not None
    assert (pool.elsewhere, pool.loads) == (2, [0.5, 0])


async def test_one_hot_conversation_leaves_a_worker_that_others_keep_busy() -> None:
    busy = {name: worker(name, 8, queue_depth=6 if name == "a" else 0) for name in "abc"}
    pools = pools_of(*busy.values(), routing={"chat": "affinity"})
    for key in range(60):
        with await soon(pools.take(Ask("small", "chat", affinity=lambda key=key: b"%d" % key))) as taken:  # type: ignore[misc]
            assert taken.id != "a"


async def test_who_finds_no_place_waits_for_one() -> None:
    pools = pools_of(worker("a"))
    first = await soon(pools.take(ASK))
    waits = asyncio.ensure_future(pools.take(ASK))
    await let_all_run()
    assert (pools.depth()["chat"], waits.done()) == (1, False)
    ended(first)
    assert (await soon(waits)).worker.id == "a"
    assert pools.depth()["chat"] == 0


async def test_who_leaves_the_queue_leaves_nothing_behind() -> None:
    a = worker("a")
    pools = pools_of(a)
    first = await soon(pools.take(ASK))
    gone, waits = (asyncio.ensure_future(pools.take(ASK)) for _ in range(2))
    await let_all_run()
    gone.cancel()
    await let_all_run()
    assert pools.depth()["chat"] == 1
    ended(first)
    ended(await soon(waits))
    assert a.outstanding == 0


async def test_a_place_given_to_one_that_leaves_in_the_same_moment_goes_on_to_the_next() -> None:
    a = worker("a")
    pools = pools_of(a)
    first = await soon(pools.take(ASK))
    gone, waits = (asyncio.ensure_future(pools.take(ASK)) for _ in range(2))
    await let_all_run()
    ended(first)
    gone.cancel()  # its place is given, and it does not know yet
    ended(await soon(waits))
    assert (a.outstanding, pools.depth()["chat"]) == (0, 0)


async def test_a_full_queue_says_so_and_when_to_come_again() -> None:
    pools = pools_of(worker("a"), queue_max=2)
    await soon(pools.take(ASK))
    waits = asyncio.ensure_future(pools.take(ASK))
    await let_all_run()
    with pytest.raises(Overloaded) as caught:
        await soon(pools.take(ASK))
    assert (caught.value.code, caught.value.retry_after) == ("workers_full", 2.0)
    waits.cancel()


async def test_who_cannot_be_served_in_time_is_told_at_once() -> None:
    pools = pools_of(worker("a"))
    await soon(pools.take(ASK))
    until = asyncio.get_running_loop().time() + 0.5  # a place is expected in 1 s
    with pytest.raises(Overloaded):
        await soon(pools.take(Ask("small", "chat", until=until)))
    assert pools.depth()["chat"] == 0


async def test_a_wait_that_gets_longer_than_thought_ends() -> None:
    a = worker("a")
    a.service = a.service.after(-8.0)  # so that places seem to come ten times as fast
    pools = pools_of(a, queue_seconds=0.2)
    place = await soon(pools.take(ASK))
    with pytest.raises(Overloaded):
        await soon(pools.take(ASK))
    assert pools.depth()["chat"] == 0
    ended(place)
    ended(await soon(pools.take(ASK)))


async def test_a_worker_that_comes_serves_who_waits() -> None:
    a, b = worker("a"), worker("b")
    there = [a]
    pools = Pools(Rules(), lambda: there)
    pools.changed()
    await soon(pools.take(ASK))
    waits = asyncio.ensure_future(pools.take(ASK))
    await let_all_run()
    there.append(b)
    pools.changed()
    assert (await soon(waits)).worker is b


async def test_a_worker_that_goes_takes_nobody_with_it() -> None:
    a, b = worker("a"), worker("b")
    there = [a, b]
    pools = Pools(Rules(), lambda: there)
    pools.changed()
    places = [await soon(pools.take(ASK)) for _ in range(2)]
    waits = asyncio.ensure_future(pools.take(ASK))
    await let_all_run()
    there.remove(a)
    pools.changed()
    ended(next(place for place in places if place.worker is b))
    assert (await soon(waits)).worker is b


async def test_pools_that_share_a_worker_take_turns_by_age() -> None:
    models = (ServedModel(id="small", abilities=("chat",)), ServedModel(id="big", abilities=("chat",)))
    a, b = worker("a", models=models), worker("b", models=models[:1])
    pools = pools_of(a, b)
    at_a = await soon(pools.take(Ask("big", "chat")))
    await soon(pools.take(ASK))
    waiting = []
    for model in ("big", "small", "big"):
        waiting.append(asyncio.ensure_future(pools.take(Ask(model, "chat"))))
        await let_all_run()
    for wanted in waiting:
        ended(at_a)
        at_a = await soon(wanted)
        assert at_a.worker is a


# -- failing workers --------------------------------------------------------------------------------------------------


def refused() -> Unavailable:
    import aiohttp
    from aiohttp.client_reqrep import ConnectionKey

    key = ConnectionKey("w", 1, False, True, None, None, None)
    error = Unavailable("not reachable", code="engine_unavailable")
    error.__cause__ = aiohttp.ClientConnectorError(key, OSError("refused"))
    return error


async def test_where_nobody_listens_nobody_is_sent_for_a_while() -> None:
    pools = pools_of(worker("a", 8), worker("b", 8))
    ended(await soon(pools.take(ASK)), refused())
    assert Counter([(await soon(pools.take(ASK))).worker.id for _ in range(8)]) == {"b": 8}


async def test_a_deadline_that_a_caller_chose_ejects_nobody() -> None:
    a, b = worker("a", 8), worker("b", 8)
    pools = pools_of(a, b)
    until = asyncio.get_running_loop().time() + 1e-4
    for place in [await soon(pools.take(Ask("small", "chat", until=until))) for _ in range(8)]:
        await asyncio.sleep(0.001)
        with pytest.raises(UpstreamTimeout), place:
            raise UpstreamTimeout("not in time")
    assert (a.breaker.failing, b.breaker.failing) == (0.0, 0.0)


async def test_the_last_worker_is_never_ejected() -> None:
    a, b = worker("a", 8), worker("b", 8)
    pools = pools_of(a, b)
    for each in (a, b):
        pools.failed(each, time.monotonic(), surely=True)
    found = [await soon(pools.take(ASK)) for _ in range(4)]
    assert Counter(place.worker.id for place in found) == {"a": 2, "b": 2}


async def test_after_a_while_one_request_tries_it_and_opens_it_to_all() -> None:
    a, b = worker("a", 8), worker("b", 8)
    pools = pools_of(a, b)
    pools.failed(a, time.monotonic() - 10, surely=True)  # its second is over
    pools.refresh(a)
    trial = await soon(pools.take(ASK))
    assert trial.worker is a
    assert {(await soon(pools.take(ASK))).worker.id for _ in range(3)} == {"b"}
    ended(trial)
    assert "a" in {(await soon(pools.take(ASK))).worker.id for _ in range(2)}


# -- overload ---------------------------------------------------------------------------------------------------------


async def test_a_light_tenant_keeps_its_share_beside_a_heavy_one() -> None:
    """Four places; a heavy tenant keeps the queue full; the light one has four callers and gets every second place."""
    pools = pools_of(worker("a", 4), queue_max=64)
    served: Counter[str] = Counter()
    refusals: Counter[str] = Counter()
    running: asyncio.Queue[Place] = asyncio.Queue()

    async def caller(tenant: str) -> None:
        while sum(served.values()) < 400:
            try:
                place = await pools.take(Ask("small", "chat", tenant=tenant))
            except Overloaded:
                refusals[tenant] += 1
                await asyncio.sleep(0)
                continue
            served[tenant] += 1
            running.put_nowait(place)
            await asyncio.sleep(0)

    callers = [asyncio.ensure_future(caller("heavy")) for _ in range(100)]
    callers += [asyncio.ensure_future(caller("light")) for _ in range(4)]
    while sum(served.values()) < 400:
        ended(await soon(running.get()))
        await asyncio.sleep(0)
    for task in callers:
        task.cancel()
    await asyncio.gather(*callers, return_exceptions=True)
    assert refusals["heavy"] > 0
    assert refusals["light"] == 0
    assert served["light"] >= 0.4 * served["heavy"]


HAPPENS = [
    "ask",
    "ask",
    "ask",
    "end",
    "fail",
    "leave",
    "come",
    "go",
    "silent",
    "ready",
    "not ready",
    "drain",
    "undrain",
]
EVENTS = st.lists(st.tuples(st.sampled_from(HAPPENS), st.integers(0, 9)), max_size=60)


@given(EVENTS, st.sampled_from(["least_outstanding", "power_of_two", "round_robin", "affinity"]))
def test_whatever_happens_nobody_is_overcommitted_and_nobody_is_forgotten(
    events: list[tuple[str, int]], strategy: str
) -> None:
    asyncio.run(_live(events, strategy))


async def _live(events: list[tuple[str, int]], strategy: str) -> None:
    there = [worker("w-0", 2), worker("w-1", 1)]
    known = list(there)
    pools = Pools(Rules(routing={"chat": strategy}, queue_max=64), lambda: there)  # type: ignore[dict-item]
    pools.changed()
    waiting: list[asyncio.Task[Place]] = []
    held: list[Place] = []
    random = Random(0)
    for event, number in events:
        if event == "ask":
            ask = Ask("small", "chat", tenant=f"t-{number % 3}", affinity=lambda: random.randbytes(4))
            waiting.append(asyncio.ensure_future(pools.take(ask)))
        elif event in ("end", "fail") and held:
            ended(held.pop(number % len(held)), refused() if event == "fail" else None)
        elif event == "leave" and waiting:
            waiting[number % len(waiting)].cancel()
        elif event == "come" and len(there) < 4:
            there.append(worker(f"w-{len(known)}", 1 + number % 2))
            known.append(there[-1])
            pools.changed()
        elif event == "go" and len(there) > 1:
            there.pop(number % len(there))
            pools.changed()
        elif event == "silent":
            pools.probe_failed(there[number % len(there)], surely=True)
        elif event in ("ready", "not ready"):
            pools.probe_answered(there[number % len(there)], ready=event == "ready")
        elif event in ("drain", "undrain"):
            _drained(pools, there[number % len(there)], event == "drain")
        await let_all_run()
        for task in [task for task in waiting if task.done()]:
            waiting.remove(task)
            if not task.cancelled() and task.exception() is None:
                held.append(task.result())
        assert all(w.outstanding <= w.capacity for w in known)
        assert sum(w.outstanding for w in known) == len(held)
        free = [w for w in there if w.open and w.outstanding < w.capacity and w.breaker.lets_in(time.monotonic())]
        assert not (waiting and free), "somebody waits beside a free place"
    for each in there:
        _drained(pools, each, False)
        pools.probe_answered(each, ready=True)
    while waiting or held:
        for place in held:
            ended(place)
        held.clear()
        await let_all_run()
        held = [task.result() for task in waiting if task.done() and not task.cancelled()]
        waiting = [task for task in waiting if not task.done()]
        if waiting and not held:
            break
    assert not waiting or all(not w.breaker.lets_in(time.monotonic()) for w in there)
    for task in waiting:
        task.cancel()


def _drained(pools: Pools, worker: Worker, drained: bool) -> None:
    worker.drained = drained
    worker.reckon()
    pools.freed(worker)
