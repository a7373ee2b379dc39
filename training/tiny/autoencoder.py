"""The autoencoder, taught to read and write the latent space that the transformer works in.

The decoder learns to draw pictures from latents with a little noise, as a sampler leaves it; the encoder
to give a picture's latents. Neither waits for the other: the space between them is fixed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from training.tiny import model, scenes
from training.tiny.latents import CHANNELS, PATCH, alternation
from training.tiny.learning import Learner, Pace, run
from training.tiny.muon import Muon
from training.tiny.pictures import SIDE

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

    from training.tiny.latents import LatentSpace
    from training.tiny.pictures import Painter
    from training.tiny.scenes import Kind, Scene

CROP = 64  # pixels: what is learned from at a time
_KINDS: tuple[Kind, ...] = ("one", "two", "one", "person")


@dataclass(frozen=True)
class Plan:
    """What a run does. Each step: `pictures`, two crops of each."""

    pace: Pace = field(default_factory=lambda: Pace(steps=6_000, decay_from=3_000, warmup=20))
    pictures: int = 8
    seed: int = 0
    muon_lr: float = 3e-3
    adam_lr: float = 2e-3
    average: float = 0.99
    noise: float = 0.15  # most noise on latents that the decoder is shown, as a standard deviation
    edges: float = 0.5  # weight of differences between neighbouring pixels
    encoder_every: int = 4  # the encoder has less to learn
    sizes: model.Sizes = field(default_factory=model.Sizes)
    device: str = "cpu"


class Trainer:
    """`folder` keeps it."""

    def __init__(self, plan: Plan, folder: Path, painter: Painter, space: LatentSpace) -> None:
        self.plan, self._painter, self._space = plan, painter, space
        self._nouns = tuple(thing.word for thing in scenes.things())
        torch.manual_seed(plan.seed)
        self.autoencoder = model.autoencoder(plan.sizes).to(plan.device, memory_format=torch.channels_last)
        weights = list(self.autoencoder.parameters())
        self.learner = Learner(weights, _optimizers(weights, plan), plan.average, folder / "checkpoint.pt")

    def advance(self) -> float:
        """One step; returns the decoder's loss."""
        step = self.learner.step
        rng = np.random.default_rng([self.plan.seed, step])
        pictures, latents = (part.to(self.plan.device) for part in self._crops(rng))
        with torch.enable_grad():  # the image server switches gradients off for its process
            drawn = self.autoencoder.decoder(latents + self._noise(rng, latents))
            loss = lost(drawn, pictures, self.plan.edges)
            whole = loss
            if step % self.plan.encoder_every == 0:
                plain = latents - alternation(*latents.shape[2:]).to(latents.device)
                whole = loss + (self.read(pictures) - plain).square().mean()
        self.learner.learn(whole, self.plan.pace.rate(step))
        return float(loss.item())

    def read(self, pictures: torch.Tensor) -> torch.Tensor:
        """The encoder's latents; B by 3 by H by W pixels, -1 to 1."""
        latents: torch.Tensor = self.autoencoder.encoder(pictures)[:, :CHANNELS]
        return latents

    def scenes(self, rng: np.random.Generator, count: int) -> list[Scene]:
        return [scenes.draw(rng, _KINDS[i % len(_KINDS)], self._nouns) for i in range(count)]

    def _crops(self, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Pixels, -1 to 1, and their latents: two crops of each picture, one the other's mirror in place."""
        painted = np.stack([self._painter.paint(scene) for scene in self.scenes(rng, self.plan.pictures)])
        latents = self._space.read(painted)
        pixels = as_pixels(painted)
        cells, room = CROP // PATCH, (SIDE - CROP) // PATCH
        top, left = (int(cell) for cell in rng.integers(0, room + 1, 2))
        corners = ((top, left), (room - top, room - left))
        seen = [latents[:, :, y : y + cells, x : x + cells] for y, x in corners]
        shown = [pixels[:, :, y * PATCH : y * PATCH + CROP, x * PATCH : x * PATCH + CROP] for y, x in corners]
        return torch.cat(shown).contiguous(memory_format=torch.channels_last), torch.cat(seen)

    def _noise(self, rng: np.random.Generator, like: torch.Tensor) -> torch.Tensor:
        """Of another strength for each crop."""
        strength = rng.random((like.shape[0], 1, 1, 1), np.float32) * self.plan.noise
        return torch.from_numpy(rng.standard_normal(like.shape, np.float32) * strength).to(like.device)

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def fidelity(self, count: int = 32) -> dict[str, float]:
        """Peak signal to noise, in dB, on pictures of a seed of their own: of the decoder by itself, of encoder and
        linear inverse, and of the linear inverse alone, which is the yardstick."""
        painted = self._examined(count)
        latents = self._space.read(painted)
        with self.learner.averaged():
            read = self.read(as_pixels(painted).to(self.plan.device)).cpu() + alternation(*latents.shape[2:])
        pairs = {"decoder": self._drawn(latents), "encoder": self._space.write(read)}
        pairs["linear"] = self._space.write(latents)
        return {name: decibels(picture, painted) for name, picture in pairs.items()}

    def _examined(self, count: int) -> np.ndarray[Any, Any]:
        return np.stack([self._painter.paint(scene) for scene in self.scenes(np.random.default_rng(99), count)])

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def _drawn(self, latents: torch.Tensor) -> np.ndarray[Any, Any]:
        with self.learner.averaged():
            return as_picture(self.autoencoder.decoder(latents.to(self.plan.device)).cpu())

    def show(self, file: Path) -> None:
        """Pictures above what the decoder makes of their latents."""
        from PIL import Image

        painted = self._examined(8)
        rows = [np.concatenate(list(row), axis=1) for row in (painted, self._drawn(self._space.read(painted)))]
        Image.fromarray((np.concatenate(rows) * 255).astype(np.uint8)).save(file)


def lost(drawn: torch.Tensor, wanted: torch.Tensor, edges: float) -> torch.Tensor:
    """Absolute and squared differences of pixels, and of the steps between neighbours, where blur shows."""
    apart = drawn - wanted
    steps = apart.diff(dim=2).abs().mean() + apart.diff(dim=3).abs().mean()
    return apart.abs().mean() + apart.square().mean() + edges * steps


def as_pixels(painted: np.ndarray[Any, Any]) -> torch.Tensor:
    """B by H by W by 3, 0 to 1, as the autoencoder takes them: B by 3 by H by W, -1 to 1."""
    return torch.from_numpy(painted).permute(0, 3, 1, 2) * 2 - 1


def as_picture(pixels: torch.Tensor) -> np.ndarray[Any, Any]:
    """The way back, clipped."""
    picture: np.ndarray[Any, Any] = ((pixels + 1) / 2).clamp(0, 1).permute(0, 2, 3, 1).contiguous().numpy()
    return picture


def decibels(drawn: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any]) -> float:
    """Mean over pictures."""
    return float(np.mean(-10 * np.log10(np.square(drawn - wanted).mean(axis=(1, 2, 3)))))


def _optimizers(weights: list[torch.nn.Parameter], plan: Plan) -> list[torch.optim.Optimizer]:
    inner = [weight for weight in weights if weight.dim() == 4 and min(weight.shape[:2]) > 3]
    chosen = {id(weight) for weight in inner}
    outer = [weight for weight in weights if id(weight) not in chosen]
    return [
        Muon(inner, plan.muon_lr),
        torch.optim.AdamW(outer, plan.adam_lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def train(plan: Plan, folder: Path, painter: Painter, space: LatentSpace) -> AutoencoderKL:
    """To the plan's end, from where `folder` left off; returns the autoencoder with its averaged weights."""
    trainer = Trainer(plan, folder, painter, space)
    run("autoencoder", plan.pace, trainer.learner, folder, trainer.advance, trainer.show)
    trainer.learner.settle()
    return trainer.autoencoder
