"""Denoising steps by themselves: seven sizes together against padding, and full steps against the arithmetic alone."""

import statistics
import time
from collections.abc import Callable, Sequence

import torch

from bench.image.models import Setup, Size
from bench.image.serve import seconds_of
from image import batch
from image.batch import RequestState
from image.embeddings import Embeddings
from image.pipelines import memory
from image.request import RequestId
from image.scheduler import schedule

BATCHES = (1, 2, 4, 8)
REPEATS = 7
SEVEN = ((1, 1), (1, 1.5), (1.5, 1), (1.5, 1.5), (1.5, 2), (2, 2), (4, 4))  # of the smallest side


def mixed(setup: Setup) -> dict[str, float]:
    """Seconds of a step of seven sizes: as the scheduler batches them, one by one, and all as long as the longest."""
    side = setup.sizes[0][0]
    sizes = [(int(side * w), int(side * h)) for w, h in SEVEN]

    def together() -> None:
        waiting = {state.id: state for state in _states(setup, sizes)}
        while waiting:
            decision = schedule([state.candidate() for state in waiting.values()], setup.budget)
            batch.step(setup.pipeline, [waiting.pop(id) for id in decision.step])

    def padded() -> None:
        batch.step(setup.pipeline, _states(setup, [sizes[-1]] * len(sizes)))

    def one_by_one() -> None:
        for state in _states(setup, sizes):
            batch.step(setup.pipeline, [state])

    def laid_out() -> None:
        _states(setup, sizes)

    ways = {"together": together, "padded": padded, "one_by_one": one_by_one, "laid_out": laid_out}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(REPEATS + 1):
        for name, work in ways.items():
            times[name].append(seconds_of(setup, work))
    found = {name: statistics.median(each[1:]) for name, each in times.items()}
    own = found.pop("laid_out")  # no step yet, and in each of the others
    seconds = {name: each - own for name, each in found.items()}
    gains = {f"gain_over_{name}": seconds[name] / seconds["together"] for name in ("padded", "one_by_one")}
    return seconds | gains


def saturation(setup: Setup, sizes: Sequence[Size]) -> list[dict[str, float]]:
    """Every size at every batch. The floor is the arithmetic at the pace of one large matrix product, measured here."""
    device = setup.stock.transformer.device
    pace = _matmul_pace(device, setup.stock.transformer.dtype)
    found = []
    for size in sizes:
        for rows in BATCHES:
            memory.reset_peak(device)
            states = _states(setup, [size] * rows)
            seconds = _best(lambda states=states: batch.step(setup.pipeline, states))  # type: ignore[misc]
            work = _operations(setup, [state.row_tokens for state in states])
            found.append(
                {
                    "side": size[0],
                    "batch": rows,
                    "step_seconds": seconds,
                    "share_of_floor": work / pace / seconds,
                    "images_per_second": rows / (seconds * setup.steps),
                    "teraflops": work / seconds / 1e12,
                    "peak_bytes": torch.cuda.max_memory_allocated() if device.type == "cuda" else 0,
                }
            )
    return found


def _states(setup: Setup, sizes: Sequence[Size]) -> list[RequestState]:
    """Resident, before their first step."""
    states = [
        batch.admit(setup.pipeline, setup.request(size, i), RequestId(i), arrived=0) for i, size in enumerate(sizes)
    ]
    batch.make_resident(setup.pipeline, states, Embeddings(0))
    return states


def _operations(setup: Setup, lengths: Sequence[int]) -> float:
    """Of one transformer call: two for each weight and token, and attention's two products."""
    transformer = setup.stock.transformer
    weights, config = sum(p.numel() for p in transformer.parameters()), transformer.config
    attention = sum(4 * length**2 * config.dim * config.n_layers for length in lengths)
    return float(2 * weights * sum(lengths) + attention)


def _matmul_pace(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of one large matrix product, the most a step could have."""
    side = 8192 if device.type == "cuda" else 512
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / _best(lambda: (a @ b).sum().item())  # the sum waits for the device


def _best(work: Callable[[], object]) -> float:
    """Seconds; the work ends when its result is on the host."""
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)
