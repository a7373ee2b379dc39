"""Which worker of a pool takes a request, by each strategy."""

from collections import Counter
from fractions import Fraction
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.workers.routing import AWAY, BOUND, Ring, in_turn, least, load, of_two

LOADS = st.lists(st.one_of(st.just(AWAY), st.floats(0, 1, exclude_max=True)), max_size=12)
IDS = [f"worker-{number}" for number in range(12)]

LEAST: dict[str, tuple[list[float], int | None]] = {
    "nobody": ([], None),
    "one": ([0.5], 0),
    "the idle one": ([0.25, 0.0], 1),
    "a tie goes to the first": ([0.5, 0.25, 0.25], 1),
    "one is away": ([AWAY, 0.9], 1),
    "all are away": ([AWAY, AWAY], None),
}


@pytest.mark.parametrize(("loads", "wanted"), LEAST.values(), ids=LEAST.keys())
def test_least(loads: list[float], wanted: int | None) -> None:
    assert least(loads) == wanted


def test_a_load_is_a_share_of_capacity_and_a_full_worker_is_away() -> None:
    assert [load(3, 4), load(4, 8), load(8, 8), load(9, 8)] == [0.75, 0.5, AWAY, AWAY]


@given(LOADS, st.integers(-1, 11), st.binary(min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_each_strategy_picks_one_that_takes_requests_whenever_there_is_one(
    loads: list[float], last: int, key: bytes, random: Random
) -> None:
    ring = Ring(IDS[: len(loads)])
    free = [each for each in loads if each != AWAY]
    mean = sum(free) / len(free) if free else 0.0
    for found in (least(loads), in_turn(loads, last), of_two(loads, random.random), ring.walk(key, loads, mean)):
        assert (found is None) == (not free)
        assert found is None or loads[found] != AWAY
    lowest = least(loads)
    assert lowest is None or loads[lowest] == min(free)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_the_least_loaded_fill_evenly(capacities: list[int]) -> None:
    """Requests that never end: at no time are two workers apart by more than one request of the smaller one."""
    taken: Counter[int] = Counter()
    for _ in range(sum(capacities)):
        found = least([load(taken[at], capacity) for at, capacity in enumerate(capacities)])
        assert found is not None
        taken[found] += 1
        loads = [Fraction(taken[at], capacity) for at, capacity in enumerate(capacities)]
        assert max(loads) - min(loads) <= Fraction(1, min(capacities))
    assert [taken[at] for at in range(len(capacities))] == capacities


@given(st.lists(st.booleans(), min_size=1, max_size=12))
def test_in_turn_everyone_who_is_there_comes_once_a_round(there: list[bool]) -> None:
    loads = [0.0 if here else AWAY for here in there]
    last, seen = -1, list[int]()
    for _ in range(2 * sum(there)):
        found = in_turn(loads, last)
        assert found is not None
        seen.append(last := found)
    assert seen == 2 * [at for at, here in enumerate(there) if here]


def test_two_at_random_stay_close_together() -> None:
    """A thousand requests that never end over ten workers: the fullest is near the mean, as theory has it."""
    taken, random = [0] * 10, Random(1)
    for _ in range(1000):
        found = of_two([load(count, 1000) for count in taken], random.random)
        assert found is not None
        taken[found] += 1
    assert max(taken) - min(taken) <= 8


# -- affinity ---------------------------------------------------------------------------------------------------------


KEYS = [f"session-{number}".encode() for number in range(500)]


def test_a_key_keeps_its_worker_and_others_keep_theirs_when_one_goes() -> None:
    idle = [0.0] * len(IDS)
    before = {key: IDS[Ring(IDS).walk(key, idle, 0.0) or 0] for key in KEYS}
    gone, left = IDS[5], [name for name in IDS if name != IDS[5]]
    ring = Ring(left)
    after = {key: left[ring.walk(key, idle[1:], 0.0) or 0] for key in KEYS}
    assert all(after[key] == worker for key, worker in before.items() if worker != gone)
    assert Counter(before.values())[gone] > 0


def test_keys_spread() -> None:
    ring = Ring(IDS)
    shares = Counter(ring.walk(key, [0.0] * len(IDS), 0.0) for key in KEYS)
    assert len(shares) == len(IDS)
    assert max(shares.values()) < 3 * len(KEYS) / len(IDS)


def test_a_worker_that_is_away_hands_over_to_the_next_and_gets_its_keys_back() -> None:
    ring, idle = Ring(IDS), [0.0] * len(IDS)
    at = ring.walk(b"a session", idle, 0.0)
    assert at is not None
    other = ring.walk(b"a session", [AWAY if each == at else 0.0 for each in range(len(IDS))], 0.0)
    assert other not in (None, at)
    assert ring.walk(b"a session", idle, 0.0) == at


@given(st.lists(st.sampled_from(KEYS[:3]), min_size=1, max_size=300))
def test_one_hot_key_overloads_nobody(keys: list[bytes]) -> None:
    """Bounded load: before each request its worker was at most BOUND times as busy as the mean."""
    ring, taken, places = Ring(IDS), [0] * len(IDS), 50
    for key in keys:
        mean = sum(taken) / (places * len(IDS))
        found = ring.walk(key, [load(count, places) for count in taken], mean)
        assert found is not None
        assert taken[found] / places <= BOUND * mean
        taken[found] += 1
