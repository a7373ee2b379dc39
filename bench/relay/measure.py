"""One sample is one contestant under one load for a few seconds; samples are taken in rounds and their medians kept."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench.load import LoadGenerator, Order
from bench.relay.contestants import Contestant
from bench.traffic import Kind

WARM_SHARE = 0.2  # of a sample's length, before it begins


@dataclass(frozen=True)
class Case:
    kind: Kind
    concurrency: int

    @property
    def title(self) -> str:
        what = {"json": "JSON", "sse": "SSE, 22 events back to back", "sse-paced": "SSE, 22 events 1 ms apart"}
        return f"{what[self.kind]}, concurrency {self.concurrency}"


CASES = (Case("json", 1), Case("json", 16), Case("sse", 1), Case("sse", 16), Case("sse-paced", 16))


@dataclass(frozen=True)
class Sample:
    """CPU in µs a request, latencies in ms. `added_ms` is p50 less that of the same round without a proxy."""

    cpu_us: float
    p50_ms: float
    p99_ms: float
    added_ms: float
    per_second: float
    reads: float


async def take(
    contestants: Sequence[Contestant], load: LoadGenerator, rounds: int, seconds: float
) -> dict[Case, dict[str, list[Sample]]]:
    """Of each case and contestant the sample of each round. Every contestant in turn, so that a slow minute is
    everyone's; the first one is the engine itself."""
    found: dict[Case, dict[str, list[Sample]]] = {case: {c.title: [] for c in contestants} for case in CASES}
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", flush=True)
        for case, samples in found.items():
            without_proxy = 0.0
            for contestant in contestants:
                taken = await sample(contestant, case, load, seconds, without_proxy)
                without_proxy = without_proxy or taken.p50_ms
                samples[contestant.title].append(taken)
    return found


async def sample(
    contestant: Contestant, case: Case, load: LoadGenerator, seconds: float, without_proxy: float = 0.0
) -> Sample:
    """`without_proxy` is the p50 of the engine itself in ms, 0 where it was not measured."""
    order = Order(
        port=contestant.program.port,
        key=contestant.key,
        path=contestant.path,
        kind=case.kind,
        concurrency=case.concurrency,
        seconds=seconds,
    )
    await load.run(replace(order, seconds=seconds * WARM_SHARE))
    before = contestant.program.cpu_seconds()
    figures = await load.run(order)
    cpu = contestant.program.cpu_seconds() - before
    return Sample(
        cpu_us=round(cpu / figures.requests * 1e6, 1),
        p50_ms=figures.p50_ms,
        p99_ms=figures.p99_ms,
        added_ms=round(figures.p50_ms - without_proxy if without_proxy else 0.0, 4),
        per_second=round(figures.requests / figures.seconds, 1),
        reads=figures.reads,
    )


def median(samples: Sequence[Sample]) -> Sample:
    """Of each figure by itself."""
    names = Sample.__dataclass_fields__
    return Sample(**{name: statistics.median(getattr(sample, name) for sample in samples) for name in names})
