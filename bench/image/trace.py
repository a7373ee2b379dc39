"""A recorded trace of arrivals, served by steps and served in order."""

import random
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.image.models import Setup
from bench.image.overhead import bare
from image.engine import Engine, Sizing
from image.events import LAST, Failed, Finished, Partial
from image.mail import Mail, News, Stop, Submit
from image.request import ImageRequest, RequestId

RATES = (0.3, 0.6, 0.9, 1.2)  # of what a sequential server could do
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
    """Of one image by the bare pipeline, by size."""
    found = {}
    for size in setup.sizes:
        times = []
        for i in range(4):
            started = time.perf_counter()
            bare(setup, setup.request(size, i))
            times.append(time.perf_counter() - started)
        found[size] = statistics.median(times[1:])
    return found


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
    served, started = Served(arrivals), time.perf_counter()
    for i, arrival in enumerate(arrivals):
        time.sleep(max(0.0, started + arrival.at - time.perf_counter()))
        bare(setup, arrival.request)
        served.ended[i] = time.perf_counter() - started
    return served


def serve_by_steps(setup: Setup, arrivals: Sequence[Arrival]) -> Served:
    """By the engine, on a thread of its own."""
    mail, served, all_ended = Mail(), Served(arrivals), threading.Event()
    started = time.perf_counter()

    def hear(news: News) -> None:
        now = time.perf_counter() - started
        for id, event in news.events:
            if isinstance(event, Partial):
                served.shown.setdefault(id, now)
            if isinstance(event, LAST):
                assert isinstance(event, Finished), event.error if isinstance(event, Failed) else event
                served.ended[id] = now
        if len(served.ended) == len(arrivals):
            all_ended.set()

    engine = Engine(setup.pipeline, Sizing(setup.budget), mail, hear)
    thread = threading.Thread(target=_run, args=(engine,))
    thread.start()
    for i, arrival in enumerate(arrivals):
        time.sleep(max(0.0, started + arrival.at - time.perf_counter()))
        mail.put(Submit(RequestId(i), arrival.request))
    all_ended.wait()
    mail.put(Stop())
    thread.join()
    return served


def _run(engine: Engine) -> None:
    import torch

    torch.set_grad_enabled(False)  # it holds for a thread
    engine.run()


def _quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")
