"""What a relayed answer tells of itself as it passes: times and tokens, for the limits, the metrics and a trace."""

import asyncio
import time
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from prometheus_client import Counter, Histogram

from core.errors import UpstreamTimeout
from core.http.relay import AnswerFilter
from core.usage import BYTES_PER_TOKEN, Usage, UsageReader
from core.wire.workers import Ability
from orchestrator.gateway.pictures import PictureEvents
from orchestrator.gateway.usage_stream import UsageRequest, UsageStream

if TYPE_CHECKING:
    from orchestrator.operate.tracing import Span

FIRST = Histogram(
    "soundstage_time_to_first_token_seconds",
    "From asking a worker to a stream's first piece.",
    ["ability"],
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120),
)
BETWEEN = Histogram(
    "soundstage_inter_token_seconds",
    "Mean time between the pieces of a stream, once for each stream.",
    ["ability"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
)
TOKENS = Counter("soundstage_tokens_total", "Tokens of answers that state their usage.", ["ability", "direction"])
ESTIMATED = Counter(
    "soundstage_tokens_estimated_total",
    "Tokens of answers whose engine did not say.",
    ["ability", "direction"],
)
WORDED = frozenset(("chat", "completions", "responses"))
"""Abilities whose engines work for each token: where they do not say for how many, it is estimated."""
STREAMS = frozenset(("chat", "completions"))
"""Those whose streams state their usage where they are asked for it."""
ASK_REFUSED = frozenset((400, 422))
"""How an engine that knows no such question answers it."""
_LEFT_UNDONE = frozenset((499, 504))
_EACH_DELTA = b'.delta"'  # how the type of an event of /v1/responses ends; within a text the quote is escaped


@cache
def _labelled(metric: Any, *labels: str) -> Any:
    """Looked up once."""
    return metric.labels(*labels)


class AnswerMeter(AnswerFilter):
    """Reads what an answer of a worker took as it passes, and takes out what its caller did not ask for."""

    def __init__(
        self,
        ability: Ability,
        sent: int,
        wanted: UsageRequest | None = None,
        *,
        cuts: bool = False,
        fingerprint: bytes | None = None,
        pictures: int = 0,
    ) -> None:
        """`sent`: the bytes of the request; `wanted`: what the caller of a stream asked for itself; `cuts`: the engine
        was asked for more; `fingerprint`: the engine's, where it is known; `pictures`: how many are to be counted."""
        super().__init__()
        self.ability, self._sent, self._wanted, self.cuts = ability, sent, wanted, cuts
        self._pictures_asked, self._pictures = pictures, PictureEvents() if pictures else None
        self._fingerprint = fingerprint
        self._asked_at = time.monotonic()
        self._events: UsageStream | None = None
        self._reader: UsageReader | None = None
        self._size = self._deltas = 0
        self.streams = False

    def begins(self, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        named = dict(headers)
        self.streams = named.get(b"content-type", b"").startswith(b"text/event-stream")
        if named.get(b"content-encoding", b"identity") != b"identity":
            return headers  # nothing of it can be read
        if self.streams and self.ability in STREAMS:
            self._events = UsageStream(
                self._wanted or UsageRequest(final=True, each=True), cuts=self.cuts, fingerprint=self._fingerprint
            )
            return [pair for pair in headers if pair[0] != b"content-length"] if self.cuts else headers
        self._reader = UsageReader(2 if self.streams and self.ability == "responses" else 1)
        return headers

    @property
    def fingerprint(self) -> bytes | None:
        """The engine's, as far as it is known."""
        return self._events.fingerprint if self._events is not None else self._fingerprint

    def passes(self, chunk: bytes) -> bytes:
        self._size += len(chunk)
        if self._events is not None:
            return self._events.feed(chunk)
        if self._reader is not None:
            self._reader.feed(chunk)
            if self.streams:
                self._deltas += chunk.count(_EACH_DELTA)
        if self._pictures is not None and self.streams:
            self._pictures.feed(chunk)
        return chunk

    def rest(self) -> bytes:
        return b"" if self._events is None else self._events.rest()

    def pictures(self, *, broken: bool) -> int:
        """How many are paid of an answer that has passed: all that were asked for where it is whole; of a stream that
        the worker broke, or that tells of an error, those that came."""
        if self.status == UpstreamTimeout.status:
            return self._pictures_asked
        if self._pictures is None or not 200 <= self.status < 400:
            return 0
        cut = self.streams and (broken or self._pictures.failed)
        return self._pictures.completed if cut else self._pictures_asked

    def usage(self, error: BaseException | None = None, unseen: Callable[[float], int] = lambda _: 0) -> Usage | None:
        """What the answer took: as the engine states it, else estimated. None: nothing that counts. `unseen`: tokens
        of an answer that an engine worked at for so many seconds, and that did not come."""
        found = self._events.found() if self._events is not None else self._reader.found if self._reader else None
        if found is not None or self.ability not in WORDED:
            return found
        if self.status == 0:
            worked = isinstance(error, UpstreamTimeout | asyncio.CancelledError)
        else:
            worked = self.status < 400 or self.status in _LEFT_UNDONE
        if not worked:
            return None
        came = 0 < self.status < 400
        answered = self._answered() if came else unseen(time.monotonic() - self._asked_at)
        return Usage(self._sent // BYTES_PER_TOKEN, answered, "estimate")

    def _answered(self) -> int:
        """Of an engine that does not say: a token for each event, or for every four bytes of a whole answer."""
        if self._events is not None:
            return self._events.events
        return self._deltas if self.streams else self._size // BYTES_PER_TOKEN

    def count(
        self,
        span: "Span | None" = None,
        error: BaseException | None = None,
        unseen: Callable[[float], int] = lambda _: 0,
    ) -> Usage | None:
        """Add the answer that has passed, or as much of it as did, to the metrics and to its span; what it took."""
        found = self.usage(error, unseen)
        if found is not None:
            tokens = TOKENS if found.source == "engine" else ESTIMATED
            _labelled(tokens, self.ability, "input").inc(found.input)
            _labelled(tokens, self.ability, "output").inc(found.output)
        if self.pieces > 1 and self.streams:
            _labelled(FIRST, self.ability).observe(self.first - self.began)
            _labelled(BETWEEN, self.ability).observe(max(0.0, self.last - self.first) / (self.pieces - 1))
        if span is not None:
            span.ended(self, found, error)
        return found
