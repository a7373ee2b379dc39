"""`python -m bench.image`: one recorded trace through this engine and through first come, first served, in one run.

Poisson arrivals of mixed sizes at shares of sequential capacity; the same weights, the same requests, the same
times. Also what the engine adds to a single image over the bare pipeline. Raw figures go to bench/results/.
On a CPU seconds are the process's own, so that a busy machine measures the same; waits are skipped.
Sizes and weights are scaled down where there is no GPU: the tiny untrained Z-Image, four sizes in 256² to 1024²'s
proportions. With `--gpu` the model has Z-Image's real shape and random weights.
"""

import argparse
import json
import os
import platform
import time
from pathlib import Path

import torch

from bench.image import models
from bench.image.overhead import Overhead, overhead
from bench.image.saturation import saturation
from bench.image.trace import RATES, Served, poisson, sequential_seconds, serve_by_steps, serve_in_order

RESULTS = Path(__file__).parents[1] / "results"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.image", description=__doc__)
    parser.add_argument("--images", type=int, default=60, help="images in a trace")
    parser.add_argument("--repeats", type=int, default=15, help="single images for the overhead")
    parser.add_argument("--gpu", action="store_true", help="Z-Image's real shape on a GPU, and saturation by batch")
    parser.add_argument("--rehearse", action="store_true", help="--gpu's code with a small shape on a CPU; no figures")
    asked = parser.parse_args()
    torch.set_grad_enabled(False)
    setup = _setup(asked)
    report: dict[str, object] = {"machine": machine(), "model": setup.name, "sizes": setup.sizes, "steps": setup.steps}
    single = overhead(setup, asked.repeats)
    print_overhead(single)
    report["overhead"] = single.told()
    seconds = sequential_seconds(setup)
    report["sequential_seconds"] = {f"{w}x{h}": s for (w, h), s in seconds.items()}
    report["traces"] = [trace(setup, seconds, rho, asked.images) for rho in RATES]
    if asked.gpu or asked.rehearse:
        sizes = ((512, 512), (1024, 1024)) if asked.gpu else setup.sizes[:2]
        report["saturation"] = full = saturation(setup, sizes)
        print(*full, sep="\n")
    if asked.rehearse:
        return
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"image-{'gpu' if asked.gpu else 'cpu'}.json"
    file.write_text(json.dumps(report, indent=1) + "\n")
    print(f"raw figures: {file.relative_to(RESULTS.parents[1])}")


def _setup(asked: argparse.Namespace) -> models.Setup:
    if asked.rehearse:
        return models.real("cpu", models.SMALL)
    return models.real() if asked.gpu else models.tiny()


def trace(setup: models.Setup, seconds: dict[tuple[int, int], float], rho: float, images: int) -> dict[str, object]:
    arrivals = poisson(setup, seconds, rho, images, seed=round(rho * 10))
    in_order, by_steps = serve_in_order(setup, arrivals), serve_by_steps(setup, arrivals)
    smallest = setup.sizes[0]
    gain = in_order.latency(smallest, 0.95) / by_steps.latency(smallest, 0.95)
    print(f"\nrho {rho}: small images' p95 {gain:.2f}x better")
    for name, served in (("first come", in_order), ("this engine", by_steps)):
        print(f"  {name:12} {served.line(setup.sizes)}")
    figures = {"first_come": told(setup, in_order), "engine": told(setup, by_steps)}
    recorded = [{"at": a.at, "size": f"{a.request.width}x{a.request.height}"} for a in arrivals]
    return {"rho": rho, "small_p95_gain": gain, **figures, "arrivals": recorded}


def told(setup: models.Setup, served: Served) -> dict[str, object]:
    sizes = {
        f"{w}x{h}": {"p50": served.latency((w, h), 0.5), "p95": served.latency((w, h), 0.95)} for w, h in setup.sizes
    }
    return {
        "by_size": sizes,
        "images_per_second": served.throughput,
        "first_partial_p50": served.first_partial(0.5),
        "latencies": served.latencies,
    }


def print_overhead(single: Overhead) -> None:
    print(f"one image: bare pipeline {single.bare * 1e3:.1f} ms, engine {single.engine * 1e3:.1f} ms")
    print(f"overhead at concurrency 1: {single.ratio:.3f}x")


def machine() -> dict[str, object]:
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    when = time.strftime("%Y-%m-%d", time.gmtime())
    cpu = platform.processor() or platform.machine()
    return {"cpu": cpu, "cores": os.cpu_count(), "gpu": gpu, "torch": torch.__version__, "date": when}


if __name__ == "__main__":
    main()
