"""Who waits for a worker, in which order, and what a refused caller is told."""

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.workers.queue import FIRST_GUESS_SECONDS, FairQueue, ServiceTime, Ticket, expected_wait, retry_after

SECONDS = st.floats(0, 1e6)

WAITS: dict[str, tuple[int, float, float]] = {
    "one place that is held for 8 s": (0, 1 / 8, 8.0),
    "four such places": (0, 4 / 8, 2.0),
    "three are before it": (3, 4 / 8, 8.0),
    "nobody serves": (0, 0.0, math.inf),
}


@pytest.mark.parametrize(("ahead", "per_second", "wanted"), WAITS.values(), ids=WAITS.keys())
def test_expected_wait(ahead: int, per_second: float, wanted: float) -> None:
    assert expected_wait(ahead, per_second) == pytest.approx(wanted)


@given(st.one_of(SECONDS, st.just(math.inf)), st.floats(1, 3600))
def test_retry_after_is_between_a_second_and_the_cap(wait: float, cap: float) -> None:
    assert 1.0 <= retry_after(wait, cap) <= cap
    assert retry_after(wait, cap) == wait or not 1.0 <= wait <= cap


@given(st.lists(SECONDS, max_size=50))
def test_the_mean_stays_within_what_was_seen(seen: list[float]) -> None:
    service = ServiceTime()
    for seconds in seen:
        service = service.after(seconds)
    assert min([FIRST_GUESS_SECONDS, *seen]) - 1e-6 <= service.mean <= max([FIRST_GUESS_SECONDS, *seen]) + 1e-6


def test_the_mean_follows_what_is_measured() -> None:
    service = ServiceTime()
    for _ in range(100):
        service = service.after(7.0)
    assert service.mean == pytest.approx(7.0, rel=1e-3)


def test_a_line_knows_how_fast_it_moves() -> None:
    """Eight places are freed at once every 0.4 s and another tenant takes each second one: ten a second are its own."""
    queue = FairQueue(10_000)
    for number in range(2000):
        queue.add(Ticket("ab"[number % 2]))
    assert queue.own_wait("a") == 0.0
    for burst in range(50):
        for _ in range(8):
            queue.take(burst * 0.4)
        if burst >= 10:
            left = 1000 - 4 * (burst + 1)
            assert queue.own_wait("a") == pytest.approx((left + 1) / 10, rel=0.15)
    assert queue.own_wait("nobody") == 0.0


# -- the queue --------------------------------------------------------------------------------------------------------


def filled(*tickets: tuple[str, float, int], capacity: int = 100) -> FairQueue:
    queue = FairQueue(capacity)
    for ticket in tickets:
        queue.add(Ticket(*ticket))
    return queue


def drained(queue: FairQueue) -> list[Ticket]:
    found = []
    while (ticket := queue.take(0.0)) is not None:
        found.append(ticket)
    return found


ORDERS: dict[str, tuple[list[tuple[str, float, int]], str]] = {
    "nobody": ([], ""),
    "one tenant: first come, first served": ([("a", 1, 0), ("a", 9, 0), ("a", 1, 0)], "a1 a9 a1"),
    "two take turns": ([("a", 1, 0), ("a", 1, 0), ("a", 1, 0), ("b", 1, 0), ("b", 1, 0)], "a1 b1 a1 b1 a1"),
    "cheap requests go more often": (
        [("a", 4, 0), ("a", 4, 0), *[("b", 1, 0)] * 8],
        "b1 b1 b1 a4 b1 b1 b1 b1 a4 b1",
    ),
    "priority before age": ([("a", 1, 0), ("a", 2, 5), ("a", 3, -1), ("a", 4, 5)], "a2 a4 a1 a3"),
    "priority is a tenant's own affair": ([("a", 1, 0), ("b", 1, 9), ("b", 1, 9)], "a1 b1 b1"),
}


@pytest.mark.parametrize(("tickets", "wanted"), ORDERS.values(), ids=ORDERS.keys())
def test_the_order(tickets: list[tuple[str, float, int]], wanted: str) -> None:
    found = drained(filled(*tickets))
    assert " ".join(f"{ticket.tenant}{ticket.cost:g}" for ticket in found) == wanted


def test_one_tenant_alone_fills_half_and_the_next_finds_room() -> None:
    queue = FairQueue(8)
    for tenant, held in (("heavy", 4), ("light", 2), ("third", 1), ("fourth", 1), ("fifth", 0)):
        count = 0
        while queue.has_room(tenant):
            queue.add(Ticket(tenant))
            count += 1
        assert count == held, tenant
    assert len(queue) == queue.capacity


def test_how_many_are_ahead() -> None:
    queue = filled(*[("heavy", 1, 0)] * 50, ("light", 1, 0))
    assert {tenant: queue.ahead(tenant) for tenant in ("heavy", "light", "new")} == {"heavy": 51, "light": 3, "new": 2}


TICKETS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 9), st.integers(-2, 2)), max_size=40)


@given(TICKETS, st.randoms(use_true_random=False))
def test_everyone_leaves_once_or_is_discarded(tickets: list[tuple[str, float, int]], random: object) -> None:
    queue = filled(*tickets)
    waiting = list(queue)
    gone = [ticket for at, ticket in enumerate(waiting) if at % 3 == 1]
    for ticket in gone:
        queue.discard(ticket)
    assert len(queue) == len(waiting) - len(gone) == len(list(queue))
    taken = drained(queue)
    assert sorted(ticket.number for ticket in taken) == sorted({t.number for t in waiting} - {t.number for t in gone})
    assert (len(queue), queue.oldest()) == (0, None)


@given(TICKETS)
def test_within_a_tenant_priority_then_age(tickets: list[tuple[str, float, int]]) -> None:
    taken = drained(filled(*tickets))
    for tenant in "abc":
        own = [(-ticket.priority, ticket.number) for ticket in taken if ticket.tenant == tenant]
        assert own == sorted(own)


@given(TICKETS)
def test_while_two_wait_their_work_differs_by_less_than_one_request(tickets: list[tuple[str, float, int]]) -> None:
    """The fairness of deficit round robin: over any time in which both wait, by the dearest request of each."""
    queue = filled(*[(tenant, cost, 0) for tenant, cost, _ in tickets])
    left = Counter(tenant for tenant, _, _ in tickets)
    tenants, dearest = set(left), max((cost for _, cost, _ in tickets), default=0)
    done: Counter[str] = Counter()
    while set(+left) == tenants and (ticket := queue.take(0.0)) is not None:
        done[ticket.tenant] += int(ticket.cost)
        left[ticket.tenant] -= 1
        assert max(done[t] for t in tenants) - min(done[t] for t in tenants) <= 2 * dearest


@given(st.integers(1, 200), st.lists(st.integers(1, 5), min_size=1, max_size=400))
def test_a_dear_request_is_not_starved_by_newcomers(cost: int, others: list[int]) -> None:
    """Cheap requests of ever new tenants come as fast as places are free: the dear one leaves all the same."""
    queue = filled(("dear", cost, 0))
    worked = 0
    for number, cheap in enumerate(others):
        queue.add(Ticket(f"tenant-{number}", cheap))
        ticket = queue.take(0.0)
        assert ticket is not None
        if ticket.tenant == "dear":
            return
        worked += int(ticket.cost)
    assert worked <= cost * len(queue) + max(others), "it waited for no more work than everyone's fair share"
