"""Who may be loaded together: tables, and properties over made-up workers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.budget import Plan, Refusal, Resident, fits_ever, plan_load

A = Resident("a", holds=40, needs=40, last_used=1.0)
B = Resident("b", holds=40, needs=40, last_used=2.0)
ASLEEP = Resident("s", holds=10, needs=40, keeps=10, last_used=0.5)
NEW = Resident("new", holds=0, needs=50)

CASES: dict[str, tuple[list[Resident], int, bool, Plan | Refusal]] = {
    "it fits": ([A], 100, False, Plan()),
    "it fits to the byte": ([A], 90, False, Plan()),
    "not beside two": ([A, B], 100, False, Refusal(50, 20, 80, 100)),
    "the least recently used gives way": ([B, A], 100, True, Plan(("a",))),
    "as many as it takes": ([A, B], 60, True, Plan(("a", "b"))),
    "a pinned one does not": ([A._replace(pinned=True), B], 100, True, Plan(("b",))),
    "all pinned": ([A._replace(pinned=True), B._replace(pinned=True)], 100, True, Refusal(50, 20, 0, 100)),
    "one that sleeps has nothing more to give": ([ASLEEP, A], 60, True, Plan(("a",))),
    "what sleep keeps counts": ([A._replace(keeps=30), B], 100, True, Plan(("a", "b"))),
    "larger than all": ([], 49, True, Refusal(50, 49, 0, 49)),
    "nobody there": ([], 50, False, Plan()),
}


@pytest.mark.parametrize(("others", "budget", "may_evict", "wanted"), CASES.values(), ids=CASES.keys())
def test_what_a_load_takes(others: list[Resident], budget: int, may_evict: bool, wanted: Plan | Refusal) -> None:
    assert plan_load(NEW, others, budget, may_evict=may_evict) == wanted


sizes = st.integers(0, 100)
residents = st.builds(
    lambda name, holds, keeps, used, pinned: Resident(str(name), holds, 100, min(keeps, holds), used, pinned),
    *(st.integers(0, 999), sizes, sizes, st.floats(0, 10), st.booleans()),
)
workers = st.lists(residents, max_size=6, unique_by=lambda r: r.id)


@given(workers, sizes, st.integers(0, 400))
def test_a_plan_fits_and_takes_no_more_than_it_must(others: list[Resident], needs: int, budget: int) -> None:
    new = Resident("new", 0, needs)
    plan = plan_load(new, others, budget, may_evict=True)
    by_id = {other.id: other for other in others}
    if isinstance(plan, Refusal):
        left = sum(o.holds if o.pinned else min(o.holds, o.keeps) for o in others)
        assert left + needs > budget
        assert not fits_ever(new, others, budget)
        return
    gone = [by_id[name] for name in plan.give_way]
    assert not any(o.pinned for o in gone)
    left = sum(o.holds for o in others) - sum(o.holds - o.keeps for o in gone)
    assert left + needs <= budget
    if gone:
        last = gone[-1]
        assert left + (last.holds - last.keeps) + needs > budget, "the last one need not have given way"
        assert [o.last_used for o in gone] == sorted(o.last_used for o in gone)


@given(workers, sizes, st.integers(0, 400))
def test_without_leave_nobody_gives_way(others: list[Resident], needs: int, budget: int) -> None:
    plan = plan_load(Resident("new", 0, needs), others, budget, may_evict=False)
    assert isinstance(plan, Refusal) or plan == Plan()
