"""What the engine adds to a single image: against the bare pipeline on the same weights, in turns."""

import statistics
from dataclasses import dataclass
from functools import partial

import torch

from bench.image.clock import took
from bench.image.models import Setup
from image.engine import Engine, Sizing
from image.events import LAST, Event
from image.messages import CommandQueue, Submit, TurnReport
from image.request import ImageRequest, RequestId


@dataclass(frozen=True)
class Overhead:
    """Seconds an image: medians of alternating runs, and of each pair's ratio."""

    bare_runs: tuple[float, ...]
    engine_runs: tuple[float, ...]

    @property
    def bare(self) -> float:
        return statistics.median(self.bare_runs)

    @property
    def engine(self) -> float:
        return statistics.median(self.engine_runs)

    @property
    def ratio(self) -> float:
        return statistics.median(e / b for b, e in zip(self.bare_runs, self.engine_runs, strict=True))

    def told(self) -> dict[str, object]:
        return {"ratio": self.ratio, "bare_seconds": self.bare_runs, "engine_seconds": self.engine_runs}


def overhead(setup: Setup, repeats: int) -> Overhead:
    """At the largest size. A new prompt each time: the engine's embedding cache is not what is measured."""
    size = setup.sizes[-1]
    runs = []
    for i in range(repeats + 1):
        request = ImageRequest(f"{i} a harbour at dawn", *size, setup.steps, seed=i)
        both = [took(setup.read, partial(draw, setup, request)) for draw in (bare, engine)]
        runs.append(both)
    bare_runs, engine_runs = zip(*runs[1:], strict=True)  # the first warms both
    return Overhead(bare_runs, engine_runs)


def bare(setup: Setup, request: ImageRequest) -> None:
    setup.stock(
        request.prompt,
        width=request.width,
        height=request.height,
        num_inference_steps=request.steps,
        guidance_scale=0,
        generator=torch.Generator("cpu").manual_seed(request.seed),
    )


def engine(setup: Setup, request: ImageRequest) -> None:
    mail, told = CommandQueue(), list[Event]()

    def hear(news: TurnReport) -> None:
        told.extend(event for _, event in news.events)

    runner = Engine(setup.pipeline, Sizing(setup.budget), mail, hear)
    mail.put(Submit(RequestId(0), request))
    while not (told and isinstance(told[-1], LAST)):
        runner.run_once()
