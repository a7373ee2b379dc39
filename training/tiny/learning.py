"""What both trainings share: weights with their running average and optimizers, the file that keeps them, the loop.

A run that was cut off goes on from its file as it would have gone.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch.optim import Optimizer

CLIP = 1.0
_LOG_EVERY = 20


@dataclass(frozen=True)
class Pace:
    """Steps of a run. From `decay_from` to `steps` the learning rates fall to nothing."""

    steps: int
    decay_from: int
    warmup: int = 50
    keep_every: int = 100  # steps from checkpoint to checkpoint
    show_every: int = 100  # and from grid to grid: minutes on a CPU

    def rate(self, step: int) -> float:
        """The share of the peak learning rate."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        if step < self.decay_from:
            return 1.0
        return max(0.0, (self.steps - step) / (self.steps - self.decay_from))


class Learner:
    """Everything that changes from step to step. `memory`: how much of the running average a step keeps."""

    def __init__(
        self, weights: Sequence[torch.nn.Parameter], optimizers: Sequence[Optimizer], memory: float, file: Path
    ) -> None:
        self._weights, self._optimizers, self._memory, self._file = list(weights), list(optimizers), memory, file
        self._peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
        self._average = [weight.detach().clone() for weight in weights]
        self.step = 0
        if file.is_file():
            self._resume()

    def learn(self, loss: torch.Tensor, rate: float) -> None:
        """One step down the loss, at this share of the peak learning rates."""
        for optimizer, peaks in zip(self._optimizers, self._peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * rate
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._weights, CLIP)
        for optimizer in self._optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        memory = min(self._memory, (self.step + 1) / (self.step + 10))
        torch._foreach_lerp_(self._average, [w.detach() for w in self._weights], 1 - memory)

    def averaged(self) -> Swapped:
        """Within it the models hold the averaged weights."""
        return Swapped(self._weights, self._average)

    def settle(self) -> None:
        """The models hold the averaged weights from now on."""
        _put(self._weights, self._average)

    def save(self) -> None:
        state = {
            "step": self.step,
            "weights": [w.detach() for w in self._weights],
            "average": self._average,
            "optimizers": [o.state_dict() for o in self._optimizers],
        }
        fresh = self._file.with_suffix(".new")
        torch.save(state, fresh)
        os.replace(fresh, self._file)

    def _resume(self) -> None:
        state = torch.load(self._file, map_location=self._weights[0].device, weights_only=True)
        _put(self._weights, state["weights"])
        self._average = state["average"]
        for optimizer, stored in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(stored)
        self.step = state["step"]


class Swapped:
    """Puts other values into weights, and puts the first ones back."""

    def __init__(self, weights: list[torch.nn.Parameter], values: list[torch.Tensor]) -> None:
        self._weights, self._values = weights, values

    def __enter__(self) -> None:
        self._kept = [weight.detach().clone() for weight in self._weights]
        _put(self._weights, self._values)

    def __exit__(self, *_: object) -> None:
        _put(self._weights, self._kept)


@torch.no_grad()  # type: ignore[untyped-decorator]
def _put(weights: list[torch.nn.Parameter], values: list[torch.Tensor]) -> None:
    for weight, value in zip(weights, values, strict=True):
        weight.copy_(value)


def run(
    name: str, pace: Pace, learner: Learner, folder: Path, advance: Callable[[], float], show: Callable[[Path], None]
) -> None:
    """Call `advance`, which takes a step and returns its loss, to the pace's end; figures go to `folder`/log.jsonl,
    and `show` draws a grid into the file that it is given."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    (folder / "grids").mkdir(parents=True, exist_ok=True)
    bar = tqdm(desc=name, total=pace.steps, initial=learner.step, unit="step", mininterval=5, smoothing=0.05)
    recent: list[float] = []
    started = time.monotonic()
    with (folder / "log.jsonl").open("a") as log:
        while learner.step < pace.steps:
            recent.append(advance())
            bar.update()
            ended = learner.step == pace.steps
            if learner.step % _LOG_EVERY == 0 or ended:
                loss, seconds = sum(recent) / len(recent), time.monotonic() - started
                log.write(json.dumps({"step": learner.step, "loss": round(loss, 5), "seconds": round(seconds, 1)}))
                log.write("\n")
                log.flush()
                bar.set_postfix(loss=f"{loss:.4f}")
                recent.clear()
            if learner.step % pace.keep_every == 0 or ended:
                learner.save()
            if learner.step % pace.show_every == 0 or ended:
                show(folder / "grids" / f"{learner.step:06d}.png")
    bar.close()
