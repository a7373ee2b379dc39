"""What the judge sees in pictures that a pipeline draws for the examination's prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from bench.tiny.classifier import COLOURS, NOUNS, Judge, views
from image import canvas
from image.request import ImageRequest, Pixels
from training.tiny import prompts, scenes
from training.tiny.pictures import SIDE
from training.tiny.scenes import Scene

Draw = Callable[[Sequence[str], int], np.ndarray[Any, Any]]
"""Prompts and a seed to pictures: N by height by width by 3, 0 to 1."""
Part = Literal["trained names", "held out: thing + colour", "held out: thing + thing"]
CHANCE: dict[Part, float] = {
    "trained names": 1 / len(NOUNS),
    "held out: thing + colour": 1 / len(NOUNS) / len(COLOURS),
    "held out: thing + thing": 1 / len(NOUNS) / (len(NOUNS) - 1),
}
TOGETHER = 8
SIZES = ((64, 64), (96, 112), (128, 192), (192, 128), (256, 256), (80, 256), (288, 512), (1024, 1024))
"""Height and width other than the native ones."""


@dataclass(frozen=True)
class Score:
    """`right`: share of pictures in which everything asked for is seen; `error`: its standard error."""

    part: Part
    right: float
    error: float
    pictures: int


def examination(part: Part, count: int) -> list[Scene]:
    """Trained names go through the concepts in order; the other parts are drawn by chance."""
    rng = np.random.default_rng(len(part))
    found: list[Scene] = []
    while len(found) < count:
        if part == "trained names":
            found.append(scenes.draw_trained(rng, "one", (NOUNS[len(found) % len(NOUNS)],)))
            continue
        scene = scenes.draw(rng, "one" if "colour" in part else "two", NOUNS)
        if scenes.held_out(scene):
            found.append(scene)
    return found


def score(part: Part, judge: Judge, draw: Draw, count: int) -> Score:
    """Colours count where the part asks for them, order of two things always."""
    right: list[bool] = []
    asked = examination(part, count)
    for first in range(0, count, TOGETHER):
        group = asked[first : first + TOGETHER]
        pictures = draw([prompts.tell_plainly(scene) for scene in group], first)
        right += [_shows(judge, picture, scene, part) for picture, scene in zip(pictures, group, strict=True)]
    share = float(np.mean(right))
    return Score(part, share, (share * (1 - share) / count) ** 0.5, count)


def fitted(native: np.ndarray[Any, Any], height: int, width: int) -> np.ndarray[Any, Any]:
    """What the image worker makes of a native picture for a caller who asks for another size; 0 to 1."""
    drawn = Pixels(SIDE, SIDE, (native * 255).round().astype(np.uint8).tobytes())
    found = canvas.back(drawn, ImageRequest("", width, height, steps=1, seed=0))
    return np.frombuffer(found.rgb, np.uint8).reshape(height, width, 3).astype(np.float32) / 255


def score_sizes(judge: Judge, draw: Draw, count: int) -> dict[str, float]:
    """Share of trained names that the judge sees in the middle of pictures of each of SIZES, by WIDTHxHEIGHT."""
    asked = examination("trained names", count)
    right: dict[str, list[bool]] = {}
    for first in range(0, count, TOGETHER):
        group = asked[first : first + TOGETHER]
        pictures = draw([prompts.tell_plainly(scene) for scene in group], first)
        for height, width in SIZES:
            for picture, scene in zip(pictures, group, strict=True):
                shown = _middle(fitted(picture, height, width))
                right.setdefault(f"{width}x{height}", []).append(_shows(judge, shown, scene, "trained names"))
    return {size: float(np.mean(seen)) for size, seen in right.items()}


def _middle(picture: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The largest square in the middle, SIDE by SIDE."""
    height, width, _ = picture.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = torch.from_numpy(picture[top : top + side, left : left + side].copy()).permute(2, 0, 1)[None]
    shown = torch.nn.functional.interpolate(square, (SIDE, SIDE), mode="bilinear", antialias=True)
    return np.asarray(shown[0].permute(1, 2, 0))


def _shows(judge: Judge, picture: np.ndarray[Any, Any], scene: Scene, part: Part) -> bool:
    concepts, colours = judge.says(views(picture, len(scene.things)))
    coloured = "colour" not in part or set(colours) == {scene.background}
    return tuple(concepts) == scene.things and coloured


def drawn_by(pipeline: Any, steps: int = 8) -> Draw:
    """By a stock diffusers pipeline, guidance off."""

    def draw(texts: Sequence[str], seed: int) -> np.ndarray[Any, Any]:
        generators = [torch.Generator().manual_seed(seed + i) for i in range(len(texts))]
        drawn: np.ndarray[Any, Any] = pipeline(
            list(texts),
            height=SIDE,
            width=SIDE,
            num_inference_steps=steps,
            guidance_scale=0.0,
            generator=generators,
            output_type="np",
        ).images
        return drawn.astype(np.float32)

    return draw
