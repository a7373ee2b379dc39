"""`python -m training.tiny`: train the small picture model, from data to the folder that diffusers loads.

Cut off and started again, it goes on where it was.
"""

from __future__ import annotations

import argparse
import logging
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from training.tiny import autoencoder, export, fetch, model, scenes, train
from training.tiny.latents import LatentSpace
from training.tiny.learning import Pace
from training.tiny.pictures import Painter

log = logging.getLogger(__name__)

SPACE_FROM = 1_600  # pictures
WORK, OUT = Path("data/tiny"), Path("data/models/zimage-tiny-icons")


@dataclass(frozen=True)
class Recipe:
    """How much of everything."""

    transformer: train.Plan
    autoencoder: autoencoder.Plan
    pictures: int  # that the latent space is fitted to


def whole(device: str) -> Recipe:
    return Recipe(train.Plan(device=device), autoencoder.Plan(device=device), SPACE_FROM)


def rehearsal(device: str) -> Recipe:
    """The whole way in a few minutes: a model that draws nothing one would recognise."""
    sizes = model.Sizes(width=48, heads=2, layers=1, text_layers=2, autoencoder=(8, 8, 16, 16))
    short = Pace(steps=12, decay_from=6, warmup=2, keep_every=4, show_every=6)
    return Recipe(
        train.Plan(pace=short, batch=8, compiled=False, sizes=sizes, device=device),
        autoencoder.Plan(pace=short, pictures=2, sizes=sizes, device=device),
        pictures=40,
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.tiny", description=__doc__)
    parser.add_argument("--work", type=Path, default=WORK, help="data, checkpoints, sample grids (%(default)s)")
    parser.add_argument("--out", type=Path, default=OUT, help="where the trained pipeline goes (%(default)s)")
    parser.add_argument("--rehearse", action="store_true", help="the whole way at a tiny scale")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(%(default)s)")
    chosen = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        painter = painter_of(chosen.work / "icons")
        make((rehearsal if chosen.rehearse else whole)(chosen.device), chosen.work, chosen.out, painter)
    except fetch.FetchError as exc:
        sys.exit(str(exc))
    except KeyboardInterrupt:
        sys.exit(f"\nStopped. The same command goes on from the last checkpoint in {chosen.work}.")


def painter_of(folder: Path) -> Painter:
    """Fetches and draws every icon, once."""
    log.info("Icon sets: fetched and drawn")
    fetch.fetch(folder)
    return Painter.load(folder)


def make(recipe: Recipe, work: Path, out: Path, painter: Painter) -> None:
    """Latent space, transformer with text encoder, autoencoder, export."""
    work.mkdir(parents=True, exist_ok=True)
    space = latent_space(work / "space.npz", painter, recipe.pictures)
    log.info("Sample grids and figures: %s", work)
    trained = train.train(recipe.transformer, work / "transformer", painter, space)
    written = autoencoder.train(recipe.autoencoder, work / "autoencoder", painter, space)
    export.export(out, trained.transformer, trained.text_encoder, written)
    log.info("The pipeline is in %s: IMAGE_MODEL=%s make up", out, out)


def latent_space(file: Path, painter: Painter, pictures: int) -> LatentSpace:
    """Fitted once, from scenes of every kind, and kept."""
    if not file.is_file():
        rng = np.random.default_rng(0)
        nouns = tuple(thing.word for thing in scenes.things())
        kinds: tuple[scenes.Kind, ...] = ("one", "two", "one", "person")
        shown = [painter.paint(scenes.draw(rng, kinds[i % len(kinds)], nouns)) for i in range(pictures)]
        LatentSpace.fit(np.stack(shown)).save(file)
    return LatentSpace.load(file)


if __name__ == "__main__":
    main()
