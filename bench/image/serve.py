"""Requests served by this engine and by the bare pipeline, and what their seconds are."""

import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from bench.harness import quantile
from bench.image.models import Setup, Size
from image.engine import Engine, Sizing
from image.events import LAST, Failed, Finished, Partial
from image.messages import CommandQueue, Submit, TurnReport
from image.request import ImageRequest, RequestId

ROUNDS = 9
SHARES = (0.5, 0.25, 0.15, 0.1)  # of the sizes, smallest first


def seconds_of(setup: Setup, work: Callable[[], object]) -> float:
    began = setup.read()
    work()
    return setup.read() - began


@dataclass
class Clock:
    """From 0; waiting for the next arrival is skipped, not sat through."""

    setup: Setup
    _behind: float = field(init=False)

    def __post_init__(self) -> None:
        self._behind = self.setup.read()

    def now(self) -> float:
        return self.setup.read() - self._behind

    def wait_until(self, at: float) -> None:
        self._behind -= max(0.0, at - self.now())


@dataclass(frozen=True)
class Arrival:
    at: float  # seconds after the start
    request: ImageRequest


@dataclass
class Served:
    """Readings of the clock per arrival: its end, and its first partial."""

    arrivals: Sequence[Arrival]
    ended: dict[int, float] = field(default_factory=dict)
    shown: dict[int, float] = field(default_factory=dict)

    def latency(self, size: Size, share: float) -> float:
        """Seconds from arrival to the image."""
        sizes = [(each.request.width, each.request.height) for each in self.arrivals]
        return quantile((self.ended[i] - a.at for i, a in enumerate(self.arrivals) if sizes[i] == size), share)

    def figures(self, sizes: Sequence[Size]) -> dict[str, object]:
        partials = [at - self.arrivals[i].at for i, at in self.shown.items()]
        return {
            "by_size": {
                f"{w}x{h}": {"p50": self.latency((w, h), 0.5), "p95": self.latency((w, h), 0.95)} for w, h in sizes
            },
            "images_per_second": len(self.arrivals) / max(self.ended.values()),
            "first_partial_p50": quantile(partials, 0.5) if partials else None,
        }


def bare(setup: Setup, request: ImageRequest) -> None:
    setup.stock(
        request.prompt,
        width=request.width,
        height=request.height,
        num_inference_steps=request.steps,
        guidance_scale=0,
        generator=torch.Generator("cpu").manual_seed(request.seed),
    )


def bare_seconds(setup: Setup) -> dict[Size, float]:
    """Of one image by the bare pipeline, by size: medians of rounds through all sizes, after one that warms up."""
    times: dict[Size, list[float]] = {size: [] for size in setup.sizes}
    for i in range(ROUNDS + 1):
        for size, found in times.items():
            request = setup.request(size, i)
            found.append(seconds_of(setup, lambda request=request: bare(setup, request)))  # type: ignore[misc]
    return {size: statistics.median(found[1:]) for size, found in times.items()}


def poisson(setup: Setup, seconds: dict[Size, float], rho: float, images: int) -> list[Arrival]:
    """At `rho` of sequential capacity: the same trace every time the seconds are the same."""
    chance = random.Random(round(rho * 10))
    mean = sum(share * seconds[size] for share, size in zip(SHARES, setup.sizes, strict=True))
    at, arrivals = 0.0, []
    for i in range(images):
        at += chance.expovariate(rho / mean)
        size = chance.choices(setup.sizes, SHARES)[0]
        arrivals.append(Arrival(at, setup.request(size, i, partial_images=1)))
    return arrivals


def serve_in_order(setup: Setup, arrivals: Sequence[Arrival]) -> Served:
    """One at a time by the bare pipeline, first come, first served."""
    served, clock = Served(arrivals), Clock(setup)
    for i, arrival in enumerate(arrivals):
        clock.wait_until(arrival.at)
        bare(setup, arrival.request)
        served.ended[i] = clock.now()
    return served


def serve_by_steps(setup: Setup, arrivals: Sequence[Arrival]) -> Served:
    """By the engine: before every turn those that have arrived are put into its mailbox."""
    mail, served, clock = CommandQueue(), Served(arrivals), Clock(setup)

    def hear(report: TurnReport) -> None:
        for id, event in report.events:
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
