"""What may go on as a `traceparent`."""

import pytest

from core.trace_context import traceparent

GOOD = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
BAD = [
    "",
    "a",
    GOOD.upper(),
    GOOD[:-1],
    "ff" + GOOD[2:],
    GOOD + "\n",
    GOOD + "é",
    GOOD + "-\r\nx: y",
    "\xff",
    "0" * 500,
]


@pytest.mark.parametrize("sent", [GOOD, "01" + GOOD[2:] + "-more"])
def test_what_is_well_formed_goes_on(sent: str) -> None:
    assert traceparent(sent) == sent


@pytest.mark.parametrize("sent", [*BAD, None])
def test_anything_else_is_dropped(sent: str | None) -> None:
    assert traceparent(sent) is None
