"""What a relayed answer tells of itself as it passes: times and tokens, for the metrics and for a trace."""

import re
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from prometheus_client import Counter, Histogram

from core.relay import Passage
from core.wire.workers import Ability

if TYPE_CHECKING:
    from orchestrator.tracing import Span

FIRST = Histogram(
    *("soundstage_time_to_first_token_seconds", "From asking a worker to a stream's first piece.", ["ability"]),
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120),
)
BETWEEN = Histogram(
    *("soundstage_inter_token_seconds", "Mean time between the pieces of a stream, once for each stream.", ["ability"]),
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
)
TOKENS = Counter("soundstage_tokens_total", "Tokens of answers that state their usage.", ["ability", "direction"])
_USAGE = re.compile(rb'"(prompt|input|completion|output)_tokens":\s*(\d{1,12})').findall
_NOTHING: Mapping[str, int] = {}
_INPUT = (b"prompt", b"input")


class _Counts(NamedTuple):
    """The metrics of one ability: looked up once."""

    first: Any
    between: Any
    sent: Any
    answered: Any


@cache
def _counts(ability: Ability) -> _Counts:
    return _Counts(
        FIRST.labels(ability),
        BETWEEN.labels(ability),
        TOKENS.labels(ability, "input"),
        TOKENS.labels(ability, "output"),
    )


def usage(tail: bytes) -> Mapping[str, int]:
    """What the end of an answer states: `input` and `output` tokens, as far as it does. The last statement counts; in a
    text that talks of usage the name's quotes would be escaped."""
    at = tail.rfind(b'"usage"')
    if at < 0:
        return _NOTHING
    return {"input" if name in _INPUT else "output": int(number) for name, number in _USAGE(tail, at)}


def count(ability: Ability, passage: Passage, span: "Span | None" = None, error: BaseException | None = None) -> None:
    """Add an answer that has passed, or as much of it as did, to the metrics and to its span."""
    stated: Mapping[str, int] = {}
    if passage.pieces:
        counts = _counts(ability)
        stated = usage(passage.tail)
        if stated:
            counts.sent.inc(stated.get("input", 0))
            counts.answered.inc(stated.get("output", 0))
        if passage.pieces > 1 and b"data: " in passage.tail:
            counts.first.observe(passage.first - passage.began)
            counts.between.observe(max(0.0, passage.last - passage.first) / (passage.pieces - 1))
    if span is not None:
        span.ended(passage, stated, error)
