"""When a worker is left alone, for how long, and how it comes back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.workers.breaker import LONGEST_SECONDS, Breaker


def test_three_failures_in_a_row_open_it() -> None:
    breaker = Breaker()
    assert [breaker.failed(0.0) for _ in range(3)] == [None, None, 1.0]
    assert (breaker.state(0.5), breaker.lets_in(0.5)) == ("open", False)


def test_a_refused_connection_opens_it_at_once() -> None:
    assert Breaker().failed(0.0, surely=True) == 1.0


def test_a_failure_now_and_then_does_not() -> None:
    breaker = Breaker()
    for _ in range(100):
        assert breaker.failed(0.0) is None
        breaker.succeeded()
        breaker.succeeded()
    assert breaker.lets_in(0.0)


def test_half_open_one_request_tries_it() -> None:
    breaker = Breaker()
    breaker.failed(0.0, surely=True)
    assert (breaker.state(1.0), breaker.lets_in(1.0)) == ("half_open", True)
    breaker.begins(1.0)
    assert not breaker.lets_in(1.0), "one at a time"
    breaker.succeeded()
    assert (breaker.state(1.0), breaker.lets_in(1.0), breaker.failing) == ("closed", True, 0.0)


def test_a_trial_that_was_abandoned_tells_nothing() -> None:
    breaker = Breaker()
    breaker.failed(0.0, surely=True)
    breaker.begins(1.0)
    breaker.abandoned()
    assert (breaker.state(1.0), breaker.lets_in(1.0)) == ("half_open", True)


def test_each_failed_trial_doubles_the_time_up_to_a_bound() -> None:
    breaker, now, times = Breaker(), 0.0, list[float]()
    for _ in range(8):
        seconds = breaker.failed(now, surely=True)
        assert seconds is not None
        times.append(seconds)
        now += seconds
        breaker.begins(now)
    assert times == [1, 2, 4, 8, 16, LONGEST_SECONDS, LONGEST_SECONDS, LONGEST_SECONDS]


def test_requests_that_were_on_their_way_count_once() -> None:
    breaker = Breaker()
    assert [breaker.failed(0.0, surely=True) for _ in range(5)] == [1.0, None, None, None, None]
    assert breaker.failed(1.0, surely=True) == 2.0


@given(st.lists(st.sampled_from(["ok", "bad", "surely", "left"]), max_size=60), st.floats(0.01, 5))
def test_it_always_comes_back(outcomes: list[str], step: float) -> None:
    """Whatever happened: after the longest time somebody is let in, and a success closes it."""
    breaker, now = Breaker(), 0.0
    for outcome in outcomes:
        now += step
        if not breaker.lets_in(now):
            continue
        breaker.begins(now)
        if outcome == "ok":
            breaker.succeeded()
        elif outcome == "left":
            breaker.abandoned()
        else:
            breaker.failed(now, surely=outcome == "surely")
        assert breaker.failing == pytest.approx(min(max(breaker.failing, 0.0), 1.0))
    now += LONGEST_SECONDS
    assert breaker.lets_in(now)
    breaker.begins(now)
    breaker.succeeded()
    assert breaker.state(now) == "closed"
