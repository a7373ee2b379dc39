"""Training of transformer and text encoder together: flow matching on scenes painted as they are needed.

Step N draws its scenes, words, noise levels and noise from the seed and N alone, so a run that was cut
off and resumed goes the way it would have gone.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from training.tiny import model, prompts, scenes, vocabulary
from training.tiny.fast import Fast
from training.tiny.latents import CHANNELS, LatentSpace
from training.tiny.learning import Learner, Pace, run
from training.tiny.muon import Muon
from training.tiny.pictures import Painter

if TYPE_CHECKING:
    from training.tiny.scenes import Kind, Scene

_KINDS: tuple[Kind, ...] = ("one", "two", "person")


@dataclass(frozen=True)
class Plan:
    """What a run does."""

    pace: Pace = field(default_factory=lambda: Pace(steps=8_000, decay_from=6_000))
    batch: int = 64
    seed: int = 0
    muon_lr: float = 3e-3
    adam_lr: float = 2e-3
    average: float = 0.998  # the weights that are kept: a running mean with this much memory
    shares: tuple[float, float, float] = (0.5, 0.32, 0.18)  # of one thing, two, and people
    unknown: float = 0.02  # of pictures of one thing: words that name nothing
    compiled: bool = True  # where the machine has a C++ compiler
    device: str = "cpu"
    sizes: model.Sizes = field(default_factory=model.Sizes)


@dataclass(frozen=True)
class Batch:
    latents: torch.Tensor
    tokens: torch.Tensor
    lengths: torch.Tensor
    sigma: torch.Tensor
    noise: torch.Tensor


class Trainer:
    """Everything that changes from step to step; `folder` keeps it."""

    def __init__(self, plan: Plan, folder: Path, painter: Painter, space: LatentSpace) -> None:
        self.plan = plan
        self._painter, self._space = painter, space
        self._tokenizer = vocabulary.tokenizer()
        self._nouns = tuple(thing.word for thing in scenes.things() if thing.word != scenes.UNKNOWN)
        torch.manual_seed(plan.seed)
        self.transformer = model.transformer(plan.sizes).to(plan.device)
        self.text_encoder = model.text_encoder(plan.sizes, self._codes()).to(plan.device)
        self._forward = Fast(self.transformer, plan.compiled and plan.device == "cpu" and bool(which("c++")))
        weights = [*self.transformer.parameters(), *self.text_encoder.parameters()]
        self.learner = Learner(weights, self._optimizers(), plan.average, folder / "checkpoint.pt")

    def advance(self) -> float:
        """One step; returns the loss."""
        step = self.learner.step
        with torch.enable_grad():  # the image server switches gradients off for its process
            loss = self._loss(self.batch(step))
        self.learner.learn(loss, self.plan.pace.rate(step))
        return float(loss.item())

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def loss(self, step: int) -> float:
        """Of the weights as they are, on what a step is made of."""
        return float(self._loss(self.batch(step)).item())

    def batch(self, step: int) -> Batch:
        plan = self.plan
        rng = np.random.default_rng([plan.seed, step])
        shown = [self._scene(rng) for _ in range(plan.batch)]
        tokens, lengths = self.tokenize([prompts.tell(rng, scene) for scene in shown])
        even = (np.arange(plan.batch) + rng.random(plan.batch)) / plan.batch  # a level from each part of the range
        sigma = torch.from_numpy(model.SHIFT * even / (1 + (model.SHIFT - 1) * even)).float()
        latents = self._space.read(np.stack([self._painter.paint(scene) for scene in shown]))
        noise = torch.from_numpy(rng.standard_normal(latents.shape, np.float32))
        return Batch(*(part.to(plan.device) for part in (latents, tokens, lengths, sigma, noise)))

    def tokenize(self, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids padded to the longest, and how many of each row are real."""
        framed = [
            self._tokenizer.apply_chat_template(
                [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
            )
            for text in texts
        ]
        padded = self._tokenizer(framed, padding=True, return_tensors="pt")
        return padded["input_ids"], padded["attention_mask"].sum(dim=1)

    def _scene(self, rng: np.random.Generator) -> Scene:
        kind = _KINDS[int(rng.choice(3, p=self.plan.shares))]
        if kind == "one" and rng.random() < self.plan.unknown:
            return scenes.draw_trained(rng, "one", (scenes.UNKNOWN,))
        return scenes.draw_trained(rng, kind, self._nouns)

    def _encode(self, tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        real = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
        states = self.text_encoder(input_ids=tokens, attention_mask=real, output_hidden_states=True).hidden_states
        text: torch.Tensor = states[-2]
        return text

    def _loss(self, batch: Batch) -> torch.Tensor:
        sigma = batch.sigma[:, None, None, None]
        noisy = (1 - sigma) * batch.latents + sigma * batch.noise
        text = self._encode(batch.tokens, batch.lengths)
        predicted = self._forward(noisy, 1 - batch.sigma, text, batch.lengths)
        return (predicted - (batch.latents - batch.noise)).square().mean()

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def sample(self, texts: list[str], steps: int = 8, seed: int = 0) -> torch.Tensor:
        """Latents of 128 by 128 pictures, by the averaged weights."""
        forward, device = Fast(self.transformer), self.plan.device
        with self.learner.averaged():
            tokens, lengths = (part.to(device) for part in self.tokenize(texts))
            text = self._encode(tokens, lengths)
            generator = torch.Generator().manual_seed(seed)
            x = torch.randn(len(texts), CHANNELS, 16, 16, generator=generator).to(device)
            levels = [*model.noise_levels(steps), 0.0]
            for sigma, lower in pairwise(levels):
                towards = forward(x, torch.full((len(texts),), 1 - sigma, device=device), text, lengths)
                x = x + (sigma - lower) * towards
        return x

    def _codes(self) -> np.ndarray[Any, Any]:
        """What each noun's icons look like on gray, half of the code for each style."""
        width = self.plan.sizes.width // 2
        halves = []
        for style in scenes.STYLES:
            icons = [self._painter.icon(style, thing.word)[2::4, 2::4] for thing in scenes.things()]
            halves.append(model.looks(np.stack([i[..., :3] + 0.5 * (1 - i[..., 3:]) for i in icons]), width))
        return np.concatenate(halves, axis=1)

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        inner: list[torch.nn.Parameter] = []
        outer: list[torch.nn.Parameter] = []
        named = [*self.transformer.named_parameters(), *self.text_encoder.named_parameters()]
        for name, weight in named:
            inside = any(part in name for part in ("layers.", "refiner."))
            (inner if inside and weight.dim() == 2 and "adaLN" not in name else outer).append(weight)
        return [
            Muon(inner, self.plan.muon_lr, weight_decay=0.01),
            torch.optim.AdamW(outer, self.plan.adam_lr, betas=(0.9, 0.98), weight_decay=0.0),
        ]

    def show(self, file: Path) -> None:
        """A grid of pictures: trained combinations above, held-out ones below."""
        from PIL import Image

        rng = np.random.default_rng(self.plan.seed + 1)
        kinds: list[Kind] = [kind for kind, times in zip(_KINDS, (10, 6), strict=False) for _ in range(times)]
        asked = [scenes.draw_trained(rng, kind, self._nouns) for kind in kinds]
        while len(asked) < 32:
            scene = scenes.draw(rng, _KINDS[len(asked) % 3], self._nouns)
            if scenes.held_out(scene):
                asked.append(scene)
        pictures = self._space.write(self.sample([prompts.tell_plainly(scene) for scene in asked]))
        rows = [np.concatenate(list(pictures[i : i + 8]), axis=1) for i in range(0, len(pictures), 8)]
        Image.fromarray((np.concatenate(rows) * 255).astype(np.uint8)).save(file)


def train(plan: Plan, folder: Path, painter: Painter, space: LatentSpace) -> Trainer:
    """To the plan's end, from where `folder` left off; the models then hold their averaged weights."""
    trainer = Trainer(plan, folder, painter, space)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.json").write_text(json.dumps(asdict(plan), indent=2))
    run("transformer and text encoder", plan.pace, trainer.learner, folder, trainer.advance, trainer.show)
    trainer.learner.settle()
    return trainer
