"""`python -m bench.image`: this engine beside the bare diffusers pipeline, first come, first served, and padding.

One recorded trace of Poisson arrivals of mixed sizes at shares of sequential capacity: the same weights, the same
requests, the same times. What the engine adds to a single image. A step of seven sizes against padding. On a CPU
seconds are the process's own, so that a busy machine measures the same; waits are skipped. Sizes and weights are
scaled down there: the tiny untrained Z-Image, four sizes in 256² to 1024²'s proportions. With `--gpu` the model has
Z-Image's real shape and random weights. Results go to bench/results/image-{cpu,gpu}.json.
"""

import argparse
import statistics
from typing import Any

import torch

from bench.harness import machine, save
from bench.image import models, table
from bench.image.serve import Arrival, bare, bare_seconds, poisson, seconds_of, serve_by_steps, serve_in_order
from bench.image.steps import mixed
from image.request import ImageRequest

RATES = (0.3, 0.6, 0.9, 1.2)  # of what a sequential server could do


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.image", description=__doc__)
    parser.add_argument("--images", type=int, default=80, help="images in a trace; fewer are not kept (%(default)s)")
    parser.add_argument("--repeats", type=int, default=15, help="single images for the overhead (%(default)s)")
    parser.add_argument("--gpu", action="store_true", help="Z-Image's real shape on a GPU")
    parser.add_argument("--rehearse", action="store_true", help="--gpu's code with a small shape on a CPU; no figures")
    asked = parser.parse_args()
    torch.set_grad_enabled(False)
    setup = _setup(asked)
    report: dict[str, Any] = {"machine": machine("torch", "diffusers"), "model": setup.name, "sizes": setup.sizes}
    report |= {"overhead": overhead(setup, asked.repeats), "mixed": mixed(setup)}
    seconds = bare_seconds(setup)
    report["sequential_seconds"] = {f"{w}x{h}": each for (w, h), each in seconds.items()}
    report["traces"] = [trace(setup, poisson(setup, seconds, rho, asked.images), rho) for rho in RATES]
    print(table.page(report))
    if not asked.rehearse and asked.images >= parser.get_default("images"):
        save(f"image-{'gpu' if asked.gpu else 'cpu'}", report, table.page(report))


def _setup(asked: argparse.Namespace) -> models.Setup:
    if asked.rehearse:
        return models.real("cpu", models.SMALL)
    return models.real() if asked.gpu else models.tiny()


def overhead(setup: models.Setup, repeats: int) -> dict[str, Any]:
    """A single image at the largest size, in turn by both. A new prompt each time: the engine's embedding cache is not
    what is measured. The ratio is the median of each pair's."""
    pairs = []
    for i in range(repeats + 1):
        request = ImageRequest(f"{i} a harbour at dawn", *setup.sizes[-1], setup.steps, seed=i)
        ways = (lambda r=request: bare(setup, r), lambda r=request: serve_by_steps(setup, [Arrival(0.0, r)]))
        pairs.append([seconds_of(setup, work) for work in ways])
    bare_runs, engine_runs = zip(*pairs[1:], strict=True)  # the first warms both
    ratio = statistics.median(e / b for b, e in pairs[1:])
    return {"ratio": ratio, "bare_seconds": bare_runs, "engine_seconds": engine_runs}


def trace(setup: models.Setup, arrivals: list[Arrival], rho: float) -> dict[str, Any]:
    in_order, by_steps = serve_in_order(setup, arrivals), serve_by_steps(setup, arrivals)
    small = setup.sizes[0]
    return {
        "rho": rho,
        "small_p95_gain": in_order.latency(small, 0.95) / by_steps.latency(small, 0.95),
        "first_come": in_order.figures(setup.sizes),
        "engine": by_steps.figures(setup.sizes),
    }


if __name__ == "__main__":
    main()
