"""A recorded trace of arrivals, served by steps and served in order."""

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from bench.image.clock import Clock, took
from bench.image.models import Setup
from bench.image.overhead import bare
from image.engine import Engine, Sizing
from image.events import LAST, Failed, Finished, Partial
from image.messages import CommandQueue, Submit, TurnReport
from image.request import ImageRequest, RequestId

RATES = (0.3, 0.6, 0.9, 1.2)  # of what a sequential server could do
_ROUNDS = 9
_SHARES = (0.5, 0.25, 0.15, 0.1)  # of the sizes, smallest first


@dataclass(frozen=True)
class Arrival:
    at: float  # seconds after the start
    request: ImageRequest


@dataclass
class Served:
    """Seconds from arrival to the image, and to the first partial, per arrival."""

    arrivals: Sequence[Arrival]
    ended: dict[int, float] = field(default_factory=dict)
    shown: dict[int, float] = field(default_factory=dict)

    @property
    def latencies(self) -> list[float]:
        return [round(self.ended[i] - a.at, 4) for i, a in enumerate(self.arrivals)]

    def latency(self, size: tuple[int, int], share: float) -> float:
        found = [
            self.ended[i] - a.at for i, a in enumerate(self.arrivals) if (a.request.width, a.request.height) == size
        ]
        return _quantile(found, share)

    def first_partial(self, share: float) -> float | None:
        """None where nothing is shown on the way."""
        found = [at - self.arrivals[i].at for i, at in self.shown.items()]
        return _quantile(found, share) if found else None

    @property
    def throughput(self) -> float:
        return len(self.arrivals) / max(self.ended.values())

    def line(self, sizes: Sequence[tuple[int, int]]) -> str:
        parts = [f"{w}²: {self.latency((w, h), 0.5):.2f}/{self.latency((w, h), 0.95):.2f} s" for w, h in sizes]
        partial = self.first_partial(0.5)
        first = "" if partial is None else f", first partial p50 {partial:.2f} s"
        return f"p50/p95 {', '.join(parts)}, {self.throughput:.2f} images/s{first}"


def sequential_seconds(setup: Setup) -> dict[tuple[int, int], float]:
    """Of one image by the bare pipeline, by size: medians of rounds through all sizes, after one that warms up."""
    times: dict[tuple[int, int], list[float]] = {size: [] for size in setup.sizes}
    for i in range(_ROUNDS + 1):
        for size, found in times.items():
            found.append(took(setup.read, partial(bare, setup, setup.request(size, i))))
    return {size: statistics.median(found[1:]) for size, found in times.items()}


def poisson(setup: Setup, seconds: dict[tuple[int, int], float], rho: float, images: int, seed: int) -> list[Arrival]:
    """At `rho` of sequential capacity. The seed makes it the same trace every time the seconds are the same."""
    chance = random.Random(seed)
    mean = sum(share * seconds[size] for share, size in zip(_SHARES, setup.sizes, strict=True))
    at, arrivals = 0.0, []
    for i in range(images):
        at += chance.expovariate(rho / mean)
        size = chance.choices(setup.sizes, _SHARES)[0]
        arrivals.append(Arrival(at, setup.request(size, i, partial_images=1)))
    return arrivals


def serve_in_order(setup: Setup, arrivals: Sequence[Arrival]) -> Served:
    """One at a time by the bare pipeline, first come, first served."""
    served, clock = Served(arrivals), Clock(setup.read)
    for i, arrival in enumerate(arrivals):
        clock.wait_until(arrival.at)
        bare(setup, arrival.request)
        served.ended[i] = clock.now()
    return served


def serve_by_steps(setup: Setup, arrivals: Sequence[Arrival]) -> Served:
    """By the engine: before every turn those that have arrived are put into its mailbox."""
    mail, served, clock = CommandQueue(), Served(arrivals), Clock(setup.read)

    def hear(news: TurnReport) -> None:
        for id, event in news.events:
            if isinstance(event, Partial):
                served.shown.setdefault(id, clock.now())
            if isinstance(event, LAST):
                assert isinstance(event, Finished), event.error if isinstance(event, Failed) else event
                served.ended[id] = clock.now()

    engine, sent = Engine(setup.pipeline, Sizing(setup.budget), mail, hear), 0
    while len(served.ended) < len(arrivals):
        if sent == len(served.ended):  # nobody is here
            clock.wait_until(arrivals[sent].at)
        while sent < len(arrivals) and (sent == len(served.ended) or arrivals[sent].at <= clock.now()):
            mail.put(Submit(RequestId(sent), arrivals[sent].request))
            sent += 1
        engine.run_once()
    return served


def _quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")
