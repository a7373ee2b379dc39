"""How many tokens a step should hold on this device: measured once, kept, and taken up again at the next start.

Larger steps compute more per second until the device is full; beyond that they only make everybody wait.
The choice is the smallest step within a few per cent of the best throughput that leaves memory to spare.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from image import batch, warming
from image.pipelines.base import StepPipeline

ROWS = (1, 2, 3, 4, 6, 8, 12, 16)
_ENOUGH = 0.95  # of the best throughput
_PATIENCE = 20.0  # seconds of measured steps, after which no larger one is tried
_SPARE = 0.8  # of the memory that is free at the start


@dataclass(frozen=True, slots=True)
class Measurement:
    """One step of `tokens` in all."""

    tokens: int
    seconds: float
    bytes: int  # beside the states and weights

    @property
    def pace(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds


def choose(measured: Sequence[Measurement], free: int) -> Measurement:
    """The smallest that is nearly as fast as the fastest, of those that fit. Pure."""
    fitting = [m for m in measured if m.bytes <= free * _SPARE] or [measured[0]]
    best = max(m.pace for m in fitting)
    return min((m for m in fitting if m.pace >= _ENOUGH * best), key=lambda m: m.tokens)


def measure(step: Callable[[int], Measurement], free: int) -> list[Measurement]:
    """Larger and larger, until memory or patience ends."""
    found: list[Measurement] = []
    for rows in ROWS:
        found.append(step(rows))
        grown = found[-1].bytes / rows * (2 * rows)
        if sum(m.seconds for m in found) > _PATIENCE or grown > free * _SPARE or _levels_off(found):
            break
    return found


def _levels_off(found: Sequence[Measurement]) -> bool:
    """The last two were no better than what came before."""
    return len(found) > 2 and max(m.pace for m in found[-2:]) < max(m.pace for m in found[:-2]) / _ENOUGH


def for_device(pipeline: StepPipeline, file: Path, size: tuple[int, int]) -> Measurement:
    """As kept in `file` for this device, model and size, else measured now."""
    kept = _read(file)
    key = f"{pipeline.fingerprint} {size[0]}x{size[1]}"
    if key in kept:
        return Measurement(int(kept[key]["tokens"]), kept[key]["seconds"], int(kept[key]["bytes"]))
    free = pipeline.free_bytes()
    chosen = choose(measure(lambda rows: _step(pipeline, size, rows), free), free)
    pipeline.release_memory()
    _write(file, kept | {key: asdict(chosen)})
    return chosen


def _step(pipeline: StepPipeline, size: tuple[int, int], rows: int) -> Measurement:
    states = [warming.resident(pipeline, size, i) for i in range(rows)]
    batch.step(pipeline, states)  # the first of a shape is not measured
    pipeline.reset_peak()
    started = time.perf_counter()
    batch.step(pipeline, states)  # ends when its result is on the host
    seconds = time.perf_counter() - started
    tokens = sum(state.row_tokens for state in states)
    return Measurement(tokens, max(seconds, 1e-9), pipeline.peak_bytes())


def _read(file: Path) -> dict[str, dict[str, float]]:
    try:
        kept = json.loads(file.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}


def _write(file: Path, kept: dict[str, dict[str, float]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=file.parent, prefix=".", delete=False) as fresh:
        json.dump(kept, fresh, indent=1)
    os.replace(fresh.name, file)
