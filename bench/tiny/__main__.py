"""`python -m bench.tiny`: what a judge sees in the small picture model's pictures, and how long they take.

The judge is trained on real renderings first (minutes, once). Beside the model's score: chance, and the same pipeline
with untrained weights. Needs what `make tiny-model` installs. Figures go to bench/results/tiny.{json,md}.
"""

import argparse
import json
import os
import platform
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from bench.tiny import classifier
from bench.tiny.score import CHANCE, Score, drawn_by, score, score_sizes
from bench.tiny.speed import SIDE, STEPS, TOGETHER, Speed, speed
from image.settings import TRAINED
from training import untrained as tiny_untrained
from training.tiny import fetch
from training.tiny.pictures import Painter

RESULTS = Path(__file__).parents[1] / "results"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.tiny", description=__doc__)
    parser.add_argument("--model", type=Path, default=TRAINED, help="a pipeline's folder (%(default)s)")
    parser.add_argument("--work", type=Path, default=Path("data/tiny"), help="icons and the judge (%(default)s)")
    parser.add_argument("--pictures", type=int, default=200, help="pictures in each part")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only-speed", action="store_true", help="keep the scores that were measured before")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    trained = pipeline(asked.model)
    file = RESULTS / "tiny.json"
    report = json.loads(file.read_text()) if asked.only_speed else scored(asked, trained)
    torch.set_grad_enabled(False)
    timed = speed(trained)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {asked.threads} threads, load {os.getloadavg()[0]:.1f}"
    report["speed"] = {"machine": machine, **asdict(timed), "gain": timed.gain, "cpu_gain": timed.cpu_gain}
    file.write_text(json.dumps(report, indent=1) + "\n")
    text = page(report, timed)
    (RESULTS / "tiny.md").write_text(text)
    print(text)


def scored(asked: argparse.Namespace, trained: Any) -> dict[str, Any]:
    """What the judge, trained first, sees in the pictures of this pipeline and of an untrained one."""
    fetch.fetch(asked.work / "icons")
    painter = Painter.load(asked.work / "icons")
    judge = classifier.train(asked.work / "judge.pt", painter)
    seen = classifier.accuracy(judge, painter)
    scores = [told(score(part, judge, drawn_by(trained), asked.pictures)) for part in CHANCE]
    sizes = score_sizes(judge, drawn_by(trained), asked.pictures // 2)
    print(sizes, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        untrained = pipeline(tiny_untrained.ensure(Path(folder) / tiny_untrained.MODEL))
        without = [told(score(part, judge, drawn_by(untrained), asked.pictures // 4)) for part in CHANCE]
    return {
        "model": asked.model.name,
        "judge": asdict(seen),
        "scores": [asdict(one) for one in scores],
        "sizes": sizes,
        "pictures_of_a_size": asked.pictures // 2,
        "untrained": [asdict(one) for one in without],
        "chance": CHANCE,
    }


def pipeline(folder: Path) -> Any:
    from diffusers import ZImagePipeline

    pipeline = ZImagePipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def told(one: Score) -> Score:
    print(one, flush=True)
    return one


def page(report: dict[str, Any], timed: Speed) -> str:
    seen = report["judge"]
    lines = [
        f"# {report['model']}: what a judge sees, and time per picture",
        "",
        f"`python -m bench.tiny`: stock diffusers, {SIDE}², {STEPS} steps, guidance off.",
        "",
        f"The judge is a small classifier of {len(classifier.NOUNS)} concepts and {len(classifier.COLOURS)} background "
        "colours, trained on real renderings. On",
        f"{seen['views']} clean renderings of combinations that it never saw it is right about the concept in "
        f"{seen['concept']:.1%}, about the colour in {seen['colour']:.1%}.",
        "",
        "| part | everything asked for is seen | untrained weights | chance | pictures |",
        "|---|---|---|---|---|",
    ]
    for one, other in zip(report["scores"], report["untrained"], strict=True):
        right = f"{one['right']:.1%} ± {one['error']:.1%}"
        chance = CHANCE[one["part"]]
        lines.append(f"| {one['part']} | {right} | {other['right']:.1%} | {chance:.3%} | {one['pictures']} |")
    lines += [
        "",
        "Held out: training never saw that thing on that colour, or those two things together.",
        "",
    ]
    if "sizes" in report:
        shares = ", ".join(f"{size} {right:.0%}" for size, right in report["sizes"].items())
        many = report["pictures_of_a_size"]
        lines += [f"Trained names at other sizes, fitted from the canvas, {many} pictures each: {shares}.", ""]
    lines += [
        f"One picture alone takes {timed.alone:.2f} s of wall time, {timed.cpu_alone:.2f} s of CPU.",
        f"{TOGETHER} at once through the step engine take {timed.together:.2f} s and {timed.cpu_together:.2f} s:",
        f"{timed.gain:.2f} times as many pictures a second, {timed.cpu_gain:.2f} times by CPU.",
        f"Medians of {timed.repeats} runs, in turn, on {report['speed']['machine']}.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
