"""Which worker takes a request: the least loaded that has room and was not tried."""

from collections import Counter
from fractions import Fraction
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.routing import Candidate, pick

A, B, C = "a", "b", "c"

TABLE: dict[str, tuple[list[tuple[str, int, int]], list[str], str | None]] = {
    "nobody": ([], [], None),
    "one": ([(A, 0, 1)], [], A),
    "the idle one": ([(A, 1, 8), (B, 0, 8)], [], B),
    "a tie goes to the lower id": ([(B, 2, 8), (A, 2, 8)], [], A),
    "load counts, not number": ([(A, 3, 4), (B, 4, 8)], [], B),
    "of equal load the shorter queue": ([(A, 4, 8), (B, 2, 4)], [], B),
    "a full one is passed over": ([(A, 1, 1), (B, 7, 8)], [], B),
    "more than full": ([(A, 9, 1), (B, 7, 8)], [], B),
    "all full": ([(A, 1, 1), (B, 8, 8)], [], None),
    "one was tried": ([(A, 0, 8), (B, 7, 8)], [A], B),
    "all were tried": ([(A, 0, 8), (B, 0, 8)], [A, B], None),
    "the other one is full": ([(A, 0, 8), (B, 8, 8)], [A], None),
    "others were tried": ([(A, 0, 8)], [B, C], A),
}


@pytest.mark.parametrize(("workers", "tried", "wanted"), TABLE.values(), ids=TABLE.keys())
def test_pick(workers: list[tuple[str, int, int]], tried: list[str], wanted: str | None) -> None:
    assert pick([Candidate(*worker) for worker in workers], tried) == wanted


CANDIDATES = st.lists(
    st.builds(Candidate, st.sampled_from("abcdef"), st.integers(0, 20), st.integers(1, 16)),
    unique_by=lambda candidate: candidate.id,
)


@given(CANDIDATES, st.sets(st.sampled_from("abcdef")), st.randoms())
def test_whoever_is_picked_is_free_and_no_other_is_less_loaded(
    workers: list[Candidate], tried: set[str], order: Random
) -> None:
    found = pick(workers, tried)
    free = {w.id: w.outstanding / w.capacity for w in workers if w.outstanding < w.capacity and w.id not in tried}
    assert (found is None) == (not free)
    if found is not None:
        assert free[found] == min(free.values())
    order.shuffle(workers)
    assert pick(workers, tried) == found


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_every_place_is_filled_evenly(capacities: list[int]) -> None:
    """Requests that never end: at no time are two workers apart by more than one request of the smaller one."""
    taken: Counter[str] = Counter()
    ids = [str(number) for number in range(len(capacities))]
    for _ in range(sum(capacities)):
        found = pick([Candidate(w, taken[w], capacity) for w, capacity in zip(ids, capacities, strict=True)])
        assert found is not None
        taken[found] += 1
        loads = [Fraction(taken[w], capacity) for w, capacity in zip(ids, capacities, strict=True)]
        assert max(loads) - min(loads) <= Fraction(1, min(capacities))
    assert list(map(taken.__getitem__, ids)) == capacities
