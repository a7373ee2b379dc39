"""What a device does when every step is full: images a second, memory, and how near the arithmetic alone it comes."""

import time
from collections.abc import Callable, Sequence

import torch

from bench.image.models import Setup
from image import batch
from image.embeddings import Embeddings
from image.pipelines import memory
from image.request import RequestId

BATCHES = (1, 2, 4, 8)
_REPEATS = 5


def saturation(setup: Setup, sizes: Sequence[tuple[int, int]]) -> list[dict[str, float]]:
    """Every size at every batch. The floor is the arithmetic at the pace of one large matrix product, measured here."""
    device = setup.stock.transformer.device
    pace = _matmul_pace(device, setup.stock.transformer.dtype)
    found = []
    for size in sizes:
        for rows in BATCHES:
            memory.reset_peak(device)
            seconds, lengths = _step(setup, size, rows)
            work = _operations(setup, lengths)
            found.append(
                {
                    "side": size[0],
                    "batch": rows,
                    "step_seconds": seconds,
                    "floor_seconds": work / pace,
                    "share_of_floor": work / pace / seconds,
                    "images_per_second": rows / (seconds * setup.steps),
                    "teraflops": work / seconds / 1e12,
                    "peak_bytes": torch.cuda.max_memory_allocated() if device.type == "cuda" else 0,
                }
            )
    return found


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


def _step(setup: Setup, size: tuple[int, int], rows: int) -> tuple[float, list[int]]:
    states = [batch.admit(setup.pipeline, setup.request(size, i), RequestId(i), 0) for i in range(rows)]
    batch.make_resident(setup.pipeline, states, Embeddings(0))
    return _best(lambda: batch.step(setup.pipeline, states)), [s.row_tokens for s in states]


def _best(work: Callable[[], object]) -> float:
    """Seconds; the work ends when its result is on the host."""
    times = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)
