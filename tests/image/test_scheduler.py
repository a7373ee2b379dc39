"""The step scheduler: tables of cases, and properties that hold for any load."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


@settings(deadline=None)
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


@settings(deadline=None)
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
