"""A judge of small pictures: which concept is shown, and on which colour. Trained on real renderings alone.

It looks at 64 by 64 pixels: a whole picture at half its size, or the middle of its left or right half.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from training.tiny import scenes

if TYPE_CHECKING:
    from training.tiny.pictures import Painter
    from training.tiny.scenes import Kind, Scene

NOUNS = tuple(thing.word for thing in scenes.things() if thing.word != scenes.UNKNOWN)
COLOURS = tuple(scenes.BACKGROUNDS)
WIDTHS = (32, 64, 128, 256)
SEED = 1_000  # far from training's


@dataclass(frozen=True)
class Accuracy:
    """Shares that are right."""

    concept: float
    colour: float
    views: int


class Judge(nn.Module):  # type: ignore[misc]
    """Four strided convolutions, and a head for each question."""

    def __init__(self) -> None:
        super().__init__()
        sides = (3, *WIDTHS)
        layers = []
        for inner, outer in pairwise(sides):
            layers += [nn.Conv2d(inner, outer, 3, 2, 1), nn.BatchNorm2d(outer), nn.ReLU()]
        self.seen = nn.Sequential(*layers)
        self.concept = nn.Linear(WIDTHS[-1] * 4, len(NOUNS))
        self.colour = nn.Linear(WIDTHS[-1] * 4, len(COLOURS))

    def forward(self, views: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores of concepts and colours for B by 3 by 64 by 64 pixels, 0 to 1."""
        found = functional.adaptive_avg_pool2d(self.seen(views * 2 - 1), 2).flatten(1)
        return self.concept(found), self.colour(found)

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def says(self, views: torch.Tensor) -> tuple[list[str], list[str]]:
        """The concept and the colour that it sees in each view."""
        self.eval()
        concepts, colours = self(views)
        return [NOUNS[i] for i in concepts.argmax(1)], [COLOURS[i] for i in colours.argmax(1)]


def views(picture: np.ndarray[Any, Any], things: int) -> torch.Tensor:
    """What the judge is shown of a 128 by 128 by 3 picture: as many views as it has things, left first."""
    pixels = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)
    if things == 1:
        return functional.avg_pool2d(pixels[None], 2)
    return torch.stack([pixels[:, 32:96, :64], pixels[:, 32:96, 64:]])


def train(file: Path, painter: Painter, steps: int = 300, batch: int = 96) -> Judge:
    """Kept in `file`. Learns from combinations that the picture model learns from too."""
    torch.manual_seed(SEED)
    judge = Judge()
    if file.is_file():
        judge.load_state_dict(torch.load(file, weights_only=True))
        return judge
    optimizer = torch.optim.AdamW(judge.parameters(), 2e-3, weight_decay=0.02)
    falling = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        rng = np.random.default_rng([SEED, step])
        shown, concepts, colours = _batch(rng, painter, batch)
        judge.train()
        concept, colour = judge(worsened(rng, shown))
        loss = functional.cross_entropy(concept, concepts, label_smoothing=0.05)
        loss = loss + 0.3 * functional.cross_entropy(colour, colours)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        falling.step()
        if step % 25 == 0:
            print(f"judge: step {step} of {steps}, loss {loss.item():.3f}", flush=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(judge.state_dict(), file)
    return judge


def accuracy(judge: Judge, painter: Painter, count: int = 400) -> Accuracy:
    """On clean renderings of combinations that nothing was trained on."""
    rng = np.random.default_rng(SEED - 1)
    shown, concepts, colours = _batch(rng, painter, count, held_out=True)
    said_concepts, said_colours = judge.says(shown)
    right = np.mean([NOUNS[i] == word for i, word in zip(concepts.tolist(), said_concepts, strict=True)])
    seen = np.mean([COLOURS[i] == word for i, word in zip(colours.tolist(), said_colours, strict=True)])
    return Accuracy(float(right), float(seen), len(said_concepts))


def worsened(rng: np.random.Generator, shown: torch.Tensor) -> torch.Tensor:
    """As drawn pictures differ from renderings: softer, moved a little, noisy, and of other strength."""
    if rng.random() < 0.6:
        smaller = functional.interpolate(shown, scale_factor=float(rng.uniform(0.3, 0.8)), mode="area")
        shown = functional.interpolate(smaller, size=shown.shape[2:], mode="bilinear")
    down, across = (int(n) for n in rng.integers(-3, 4, 2))
    shown = torch.roll(shown, (down, across), (2, 3))
    strength = torch.from_numpy(rng.uniform(0.85, 1.15, (len(shown), 3, 1, 1)).astype(np.float32))
    noise = torch.from_numpy(rng.standard_normal(shown.shape, np.float32)) * float(rng.uniform(0, 0.08))
    return (shown * strength + noise).clamp(0, 1)


def _batch(
    rng: np.random.Generator, painter: Painter, count: int, *, held_out: bool = False
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """At least `count` views with the indices of what they show."""
    shown: list[torch.Tensor] = []
    concepts: list[int] = []
    colours: list[int] = []
    while len(concepts) < count:
        scene = _scene(rng, "one" if rng.random() < 0.6 else "two", held_out)
        shown.append(views(painter.paint(scene), len(scene.things)))
        concepts += [NOUNS.index(word) for word in scene.things]
        colours += [COLOURS.index(scene.background)] * len(scene.things)
    return torch.cat(shown), torch.tensor(concepts), torch.tensor(colours)


def _scene(rng: np.random.Generator, kind: Kind, held_out: bool) -> Scene:
    while scenes.held_out(scene := scenes.draw(rng, kind, NOUNS)) != held_out:
        pass
    return scene
