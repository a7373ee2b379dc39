"""The exception tree and its envelope."""

import json

import pytest

from core import errors
from core.errors import BY_STATUS, MethodNotAllowed, Overloaded, SoundstageError, Unavailable, internal

TREE = {
    400: ("InvalidRequest", "invalid_request_error"),
    401: ("Unauthenticated", "authentication_error"),
    403: ("Forbidden", "permission_error"),
    404: ("NotFound", "invalid_request_error"),
    405: ("MethodNotAllowed", "invalid_request_error"),
    408: ("RequestTimeout", "invalid_request_error"),
    409: ("Conflict", "invalid_request_error"),
    413: ("PayloadTooLarge", "invalid_request_error"),
    422: ("ContentPolicy", "content_policy"),
    429: ("Overloaded", "rate_limit_error"),
    431: ("HeadersTooLarge", "invalid_request_error"),
    502: ("Upstream", "upstream_error"),
    503: ("Unavailable", "service_unavailable"),
    504: ("UpstreamTimeout", "upstream_error"),
}


def test_the_table_holds_the_whole_tree() -> None:
    assert {status: (kind.__name__, kind.type) for status, kind in BY_STATUS.items()} == TREE


@pytest.mark.parametrize(("status", "kind"), BY_STATUS.items(), ids=lambda value: getattr(value, "__name__", value))
def test_the_envelope_holds_what_was_given(status: int, kind: type[SoundstageError]) -> None:
    error = kind("Grüße", code="c", param="p")
    assert error.status == status
    assert json.loads(error.body()) == {"error": {"message": "Grüße", "type": kind.type, "param": "p", "code": "c"}}
    assert error.headers() == []
    assert str(error) == "Grüße"


@pytest.mark.parametrize(
    ("seconds", "header"), [(0, b"1"), (0.01, b"1"), (1.0, b"1"), (1.2, b"2"), (59.999, b"60"), (-3, b"1")]
)
@pytest.mark.parametrize("kind", [Overloaded, Unavailable])
def test_retry_after_is_whole_seconds_and_at_least_one(
    kind: type[SoundstageError], seconds: float, header: bytes
) -> None:
    assert kind("m", retry_after=seconds).headers() == [(b"retry-after", header)]


def test_allow_lists_the_methods() -> None:
    assert MethodNotAllowed("m", allow=["GET", "POST"]).headers() == [(b"allow", b"GET, POST")]
    assert MethodNotAllowed("m", param="p").param == "p"


def test_a_bug_shows_nothing_of_its_inside() -> None:
    assert (internal().status, internal().code) == (500, "internal_error")


@pytest.mark.parametrize(("status", "kind"), BY_STATUS.items(), ids=lambda value: getattr(value, "__name__", value))
def test_every_status_has_its_place_in_the_drawing(status: int, kind: type[SoundstageError]) -> None:
    assert f"{kind.__name__} " in (errors.__doc__ or "")
    assert f" {status}" in (errors.__doc__ or "")
