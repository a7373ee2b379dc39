"""How long a caller is told to wait when every worker is full: measured, and bounded on both sides."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.admission import FIRST_GUESS_SECONDS, ServiceTime, retry_after

CAP = 30.0

WAITS: dict[str, tuple[float, int, int, float]] = {
    "one place, just full": (8.0, 1, 1, 8.0),
    "the more places, the sooner one is free": (8.0, 4, 4, 2.0),
    "more waiting than places": (8.0, 8, 4, 4.0),
    "fast answers: never under a second": (0.01, 8, 8, 1.0),
    "slow answers: never over the cap": (600.0, 1, 1, CAP),
    "an idle worker": (8.0, 0, 4, 2.0),
    "no place at all is taken for one": (8.0, 0, 0, 8.0),
}


@pytest.mark.parametrize(("mean", "outstanding", "capacity", "wanted"), WAITS.values(), ids=WAITS.keys())
def test_retry_after(mean: float, outstanding: int, capacity: int, wanted: float) -> None:
    assert retry_after(ServiceTime(mean), outstanding, capacity, CAP) == pytest.approx(wanted)


SECONDS = st.floats(0, 1e6)


@given(SECONDS, st.integers(0, 10_000), st.integers(0, 10_000), st.floats(1, 3600))
def test_it_is_always_between_a_second_and_the_cap(mean: float, outstanding: int, capacity: int, cap: float) -> None:
    assert 1.0 <= retry_after(ServiceTime(mean), outstanding, capacity, cap) <= cap


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
