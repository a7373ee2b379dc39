"""The step scheduler: tables of cases, and properties that hold for any load."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image.fair_shares import Shares
from image.request import RequestId
from image.scheduler import Budget, Candidate, Decision, schedule

ROOMY = Budget(tokens=10_000, residents=16, padding=10_000, patience=4)
SMALL, LARGE = 1_120, 4_192  # row lengths of 512² and 1024²


def candidate(
    id: int, tokens: int = SMALL, *, rows: int = 1, steps: int = 8, arrived: int = 0, resident: bool = True
) -> Candidate:
    return Candidate(RequestId(id), tokens, rows, steps, arrived, resident)


def verdicts(decision: Decision) -> dict[int, str]:
    return {reason.id: reason.verdict for reason in decision.reasons}


def test_nothing_to_do_is_an_empty_step() -> None:
    assert schedule([], ROOMY) == Decision((), 0, 0, ())


CASES = {
    "equal requests share a step in order of arrival": (
        [candidate(2), candidate(0), candidate(1)],
        ROOMY,
        (0, 1, 2),
        3 * SMALL,
        0,
    ),
    "different sizes share a step and padding is counted": (
        [candidate(0, SMALL), candidate(1, LARGE)],
        ROOMY,
        (0, 1),
        2 * LARGE,
        LARGE - SMALL,
    ),
    "guidance takes two rows": ([candidate(0, rows=2)], ROOMY, (0,), 2 * SMALL, 0),
    "the budget counts padding": (
        [candidate(0, SMALL), candidate(1, SMALL), candidate(2, LARGE)],
        replace(ROOMY, tokens=2 * LARGE),
        (0, 1),
        2 * SMALL,
        0,
    ),
    "a request that does not fit does not block a smaller one behind it": (
        [candidate(0, SMALL), candidate(1, LARGE), candidate(2, SMALL, arrived=10**6)],
        replace(ROOMY, tokens=2 * SMALL),
        (0, 2),
        2 * SMALL,
        0,
    ),
    "a request larger than the budget runs alone": (
        [candidate(0, LARGE, rows=2), candidate(1, SMALL, arrived=10**6)],
        replace(ROOMY, tokens=LARGE),
        (0,),
        2 * LARGE,
        0,
    ),
    "padding is not worth more than the call it saves": (
        [candidate(0, SMALL), candidate(1, LARGE), candidate(2, SMALL)],
        replace(ROOMY, padding=100),
        (0, 2),
        2 * SMALL,
        0,
    ),
    "short work overtakes long work that came a little earlier": (
        [candidate(0, LARGE, arrived=0), candidate(1, SMALL, arrived=5_000)],
        replace(ROOMY, tokens=LARGE),
        (1,),
        SMALL,
        0,
    ),
    "long work that waited its share goes before new short work": (
        [candidate(0, LARGE, arrived=0), candidate(1, SMALL, arrived=4 * 8 * LARGE)],
        replace(ROOMY, tokens=LARGE),
        (0,),
        LARGE,
        0,
    ),
    "a request nearly done goes before an equal one that starts": (
        [candidate(0, steps=8), candidate(1, steps=1)],
        replace(ROOMY, tokens=SMALL),
        (1,),
        SMALL,
        0,
    ),
    "no slot keeps a waiting request off the device, however urgent": (
        [candidate(0, steps=1, resident=False), candidate(1, steps=50)],
        replace(ROOMY, residents=1),
        (1,),
        SMALL,
        0,
    ),
    "a free slot goes to the most urgent": (
        [candidate(0, steps=9, resident=False), candidate(1, steps=8, resident=False), candidate(2, steps=50)],
        replace(ROOMY, residents=2),
        (1, 2),
        2 * SMALL,
        0,
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_choice(case: tuple[list[Candidate], Budget, tuple[int, ...], int, int]) -> None:
    candidates, budget, step, cost, padding = case
    decision = schedule(candidates, budget)
    assert (decision.step, decision.cost, decision.padding) == (step, cost, padding)


def test_the_decision_says_why() -> None:
    load = [
        candidate(0, LARGE, steps=1),
        candidate(1, LARGE, steps=2),
        candidate(2, SMALL, steps=9),
        candidate(3, LARGE, rows=2, steps=9),
        candidate(4, SMALL, steps=70, resident=False),
    ]
    budget = Budget(tokens=3 * LARGE, residents=4, padding=100)
    decision = schedule(load, budget)
    assert verdicts(decision) == {0: "leads", 1: "joins", 2: "too much padding", 3: "over budget", 4: "no slot"}
    assert [reason.due for reason in decision.reasons] == [4 * c.remaining for c in load]


lengths = st.integers(1, 20).map(lambda n: 32 * n)
loads = st.lists(
    st.builds(
        candidate,
        st.just(0),
        lengths,
        rows=st.integers(1, 2),
        steps=st.integers(1, 12),
        arrived=st.integers(0, 5_000),
        resident=st.booleans(),
    ),
    min_size=1,
    max_size=12,
).map(lambda found: [replace(c, id=RequestId(i)) for i, c in enumerate(found)])
budgets = st.builds(
    Budget,
    tokens=st.integers(32, 2_000),
    residents=st.integers(1, 12),
    padding=st.integers(0, 2_000),
    patience=st.integers(0, 8),
)


@settings(deadline=None, max_examples=40)
@given(loads, budgets)
def test_any_step_keeps_the_bounds(load: list[Candidate], budget: Budget) -> None:
    decision = schedule(load, budget)
    chosen = [c for c in load if c.id in decision.step]
    residents = sum(c.resident for c in load)
    entering = sum(not c.resident for c in chosen)
    rows, longest = sum(c.rows for c in chosen), max(c.tokens for c in chosen)
    assert decision.cost == rows * longest
    assert decision.padding == decision.cost - sum(c.rows * c.tokens for c in chosen)
    assert len(chosen) == 1 or (decision.cost <= budget.tokens and decision.padding <= budget.padding)
    assert entering <= max(0, budget.residents - residents)
    assert {r.id for r in decision.reasons} == {c.id for c in load}
    assert decision == schedule(reversed(load), budget)


@settings(deadline=None, max_examples=40)
@given(budgets)
def test_a_large_image_ends_though_small_ones_keep_coming(budget: Budget) -> None:
    """There are always seven small images besides; the large one still ends within a stated bound."""
    large = candidate(0, 640, steps=10, resident=False)
    live, clock, next_id = {large.id: large}, 0, 1
    # Before it go those due earlier: they arrived before it was due, or were just then in progress.
    dearest_step = max(budget.tokens, large.tokens)
    bound = budget.patience * large.remaining + (large.steps_left + 7 * 4) * dearest_step
    while large.id in live:
        while len(live) < 8:
            small = candidate(next_id, 64, steps=4, arrived=clock, resident=False)
            live[small.id] = small
            next_id += 1
        decision = schedule(live.values(), budget)
        clock += decision.cost
        assert clock <= bound
        for id in decision.step:
            stepped = replace(live[id], steps_left=live[id].steps_left - 1, resident=True)
            live[id] = stepped
            if not stepped.steps_left:
                del live[id]


def of(tenant: str, id: int, arrived: int = 0) -> Candidate:
    return replace(candidate(id, arrived=arrived), tenant=tenant)


def test_a_tenant_with_many_does_not_hold_up_a_tenant_with_one() -> None:
    """Served equally: the burst's second waits for the other's first."""
    load = [*(of("many", i) for i in range(5)), of("one", 9, arrived=100)]
    decision = schedule(load, replace(ROOMY, tokens=2 * SMALL))
    assert decision.step == (0, 9)


def test_who_was_served_less_goes_first() -> None:
    load = [of("served", 0), of("new", 1, arrived=100)]
    assert schedule(load, replace(ROOMY, tokens=SMALL), {"served": SMALL, "new": 0}).step == (1,)


def test_a_priority_shrinks_or_grows_what_work_looks_like() -> None:
    tight = replace(ROOMY, tokens=SMALL)
    low, high = replace(candidate(1), priority="low"), replace(candidate(2), priority="high")
    assert schedule([candidate(0), low, high], tight).step == (2,)
    assert [r.id for r in schedule([candidate(0), low, high], tight).reasons] == [2, 0, 1]
    old_low = replace(low, arrived=-3 * 4 * 8 * SMALL - 1)  # it has waited for its share
    assert schedule([candidate(0), old_low], tight).step == (1,)


def test_a_deadline_that_comes_near_is_met_first() -> None:
    tight = replace(ROOMY, tokens=SMALL)
    pressed = replace(candidate(1, arrived=50), deadline=9 * SMALL)
    assert schedule([candidate(0), pressed], tight).step == (1,)
    assert schedule([candidate(0), replace(pressed, deadline=10**9)], tight).step == (0,)


def test_memory_as_measured_decides_who_comes_in() -> None:
    waiting = [replace(candidate(i, resident=False), bytes=40) for i in range(1, 4)]
    decision = schedule([candidate(0), *waiting], replace(ROOMY, bytes=100))
    assert decision.step == (0, 1, 2)
    assert verdicts(decision)[3] == "no memory"
    alone = schedule(waiting, replace(ROOMY, bytes=10))  # with nobody in, one may try
    assert alone.step == (1,)


def test_exact_requests_and_adapters_do_not_mix() -> None:
    exact, ink = replace(candidate(1), alone=True), replace(candidate(2), adapter="ink")
    decision = schedule([candidate(0), exact, ink, candidate(3)], ROOMY)
    assert decision.step == (0, 3)
    assert verdicts(decision) == {0: "leads", 1: "wants to be alone", 2: "other adapter", 3: "joins"}
    leading = schedule([replace(exact, arrived=-(10**6)), candidate(3)], ROOMY)
    assert verdicts(leading) == {1: "leads", 3: "leader is alone"}


def test_what_only_waits_to_be_decoded_takes_a_slot_and_no_step() -> None:
    done = candidate(0, steps=0)
    assert schedule([done], ROOMY).step == ()
    decision = schedule([done, candidate(1, resident=False)], replace(ROOMY, residents=1))
    assert verdicts(decision) == {0: "finishing", 1: "no slot"}


@settings(deadline=None, max_examples=10)
@given(budgets)
def test_newcomers_without_end_do_not_starve_an_older_tenant(budget: Budget) -> None:
    """Seven others with small images at any time, each a new tenant; the large one's tenant was here first."""
    large = replace(candidate(0, 640, steps=5, resident=False), tenant="first")
    shares, live, clock, id = Shares(), {large.id: large}, 0, 0
    bound = (16 * large.remaining // 64 + 100) * max(budget.tokens, large.tokens)
    while large.id in live:
        while len(live) < 8:
            id += 1
            small = replace(candidate(id, 64, steps=2, arrived=clock, resident=False), tenant=f"t{id}")
            live[small.id] = small
        shares.here(live.values())
        decision = schedule(live.values(), budget, shares.served)
        shares.charge(live[i] for i in decision.step)
        clock += decision.cost
        assert clock <= bound
        for i in decision.step:
            live[i] = replace(live[i], steps_left=live[i].steps_left - 1, resident=True)
            if not live[i].steps_left:
                del live[i]


def test_a_tenant_that_comes_back_has_saved_nothing_up() -> None:
    shares = Shares()
    a, b = of("a", 0), of("b", 1)
    shares.here([a])
    shares.charge([a, a, a])
    shares.here([a, b])
    assert shares.served == {"a": 3 * SMALL, "b": 3 * SMALL}
    shares.charge([b])
    shares.here([b])
    shares.here([a, b])
    assert shares.served == {"a": 4 * SMALL, "b": 4 * SMALL}
