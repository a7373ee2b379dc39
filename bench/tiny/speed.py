"""Seconds for one picture alone, and for eight at once, through the image worker's engine."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Any

from image.engine import Engine, Sizing
from image.events import LAST, Finished
from image.messages import CommandQueue, Submit, TurnReport
from image.pipelines.zimage import ZImage
from image.request import ImageRequest, RequestId
from image.scheduler import Budget

TOGETHER, STEPS, SIDE = 8, 8, 128
BUDGET = Budget(tokens=1024, residents=32, padding=32)


@dataclass(frozen=True)
class Speed:
    """Medians over `repeats`, in seconds: of wall time, and of CPU, which other programs disturb less."""

    alone: float
    together: float
    cpu_alone: float
    cpu_together: float
    repeats: int

    @property
    def gain(self) -> float:
        """How many times more pictures a second, eight at once."""
        return TOGETHER * self.alone / self.together

    @property
    def cpu_gain(self) -> float:
        return TOGETHER * self.cpu_alone / self.cpu_together


def speed(stock: Any, repeats: int = 15) -> Speed:
    pipeline = ZImage(stock, "tiny")
    _seconds(pipeline, 1)
    runs = [(*_seconds(pipeline, 1), *_seconds(pipeline, TOGETHER)) for _ in range(repeats)]
    alone, cpu_alone, together, cpu_together = (statistics.median(column) for column in zip(*runs, strict=True))
    return Speed(alone, together, cpu_alone, cpu_together, repeats)


def _seconds(pipeline: ZImage, count: int) -> tuple[float, float]:
    """Wall time and CPU; in turn, so that a busy minute slows both."""
    mail, ended = CommandQueue(), list[object]()

    def hear(news: TurnReport) -> None:
        ended.extend(event for _, event in news.events if isinstance(event, LAST))

    engine = Engine(pipeline, Sizing(BUDGET), mail, hear)
    started, worked = time.perf_counter(), time.process_time()
    for i in range(count):
        mail.put(Submit(RequestId(i), ImageRequest(f"flat icon of a cat and {i}", SIDE, SIDE, STEPS, seed=i)))
    while len(ended) < count:
        engine.run_once()
    assert all(isinstance(event, Finished) for event in ended)
    return time.perf_counter() - started, time.process_time() - worked
