"""`python -m bench.tiny.grids`: the pictures of docs/tiny-model.md, by stock diffusers, of combinations never trained.

Nothing is picked: the first scenes that a seed gives, and one seed each.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from bench.tiny.__main__ import pipeline
from bench.tiny.classifier import NOUNS
from bench.tiny.score import SIZES, TOGETHER, Draw, drawn_by, fitted
from image.settings import TRAINED
from training.tiny import prompts, scenes
from training.tiny.scenes import Kind, Scene

DOCS = Path(__file__).parents[2] / "docs"
PROMPTS = Path(__file__).parents[1] / "results" / "tiny-prompts.md"
SHOWN = 512  # pixels of a side
STRIP = (  # README's
    "an apple on a green background",
    "a smiling woman with long red hair and glasses on a yellow background",
    "a cat and a dog on a blue background",
    "a 3d rocket on a purple background",
    "a house on a white background",
    "a laughing man with short black hair and a beard on an orange background",
    "a 3d pizza on a red background",
    "a flower and a butterfly on a pink background",
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.tiny.grids", description=__doc__)
    parser.add_argument("--model", type=Path, default=TRAINED, help="a pipeline's folder (%(default)s)")
    parser.add_argument("--out", type=Path, default=DOCS, help="where pictures go")
    parser.add_argument("--prompts", type=Path, default=PROMPTS, help="where their prompts go")
    asked = parser.parse_args()
    torch.set_num_threads(2)
    draw = drawn_by(pipeline(asked.model))
    things = [*never_trained("one", 32, 1), *never_trained("two", 32, 2)]
    people = never_trained("person", 16, 3)
    save(asked.out / "tiny-model-held-out.png", draw, [prompts.tell_plainly(scene) for scene in things])
    save(asked.out / "tiny-model-avatars.png", draw, [prompts.tell_plainly(scene) for scene in people])
    save(asked.out / "tiny-model-strip.png", draw, STRIP)
    save_sizes(asked.out / "tiny-model-sizes.png", draw)
    lines = ["# Prompts of the grids", "", "Row by row, left to right."]
    for title, shown in (("Held-out combinations", things), ("Avatars", people)):
        lines += ["", f"## {title}", "", *(f"1. {prompts.tell_plainly(scene)}" for scene in shown)]
    asked.prompts.write_text("\n".join(lines) + "\n")


def save_sizes(file: Path, draw: Draw) -> None:
    """The first prompts of the strip at other sizes, side by side."""
    from PIL import Image

    drawn = [
        fitted(draw([told], at)[0], height, width)
        for at, (told, (height, width)) in enumerate(zip(STRIP, SIZES, strict=True))
        if max(height, width) <= SHOWN
    ]
    sheet = Image.new("RGB", (sum(one.shape[1] for one in drawn) + 8 * len(drawn), max(one.shape[0] for one in drawn)))
    left = 0
    for one in drawn:
        sheet.paste(Image.fromarray((one * 255).round().astype(np.uint8)), (left, 0))
        left += one.shape[1] + 8
    sheet.save(file, optimize=True)


def never_trained(kind: Kind, count: int, seed: int) -> list[Scene]:
    rng = np.random.default_rng(seed)
    found: list[Scene] = []
    while len(found) < count:
        scene = scenes.draw(rng, kind, NOUNS)
        if scenes.held_out(scene):
            found.append(scene)
    return found


def save(file: Path, draw: Draw, told: Sequence[str]) -> None:
    from PIL import Image

    drawn = [draw(told[i : i + TOGETHER], i) for i in range(0, len(told), TOGETHER)]
    rows = [np.concatenate(list(pictures), axis=1) for pictures in drawn]
    Image.fromarray((np.concatenate(rows) * 255).round().astype(np.uint8)).save(file, optimize=True)


if __name__ == "__main__":
    main()
