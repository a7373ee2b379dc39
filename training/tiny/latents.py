"""The latent space, fixed before training: principal components of 8 by 8 pixels.

A linear space needs no training, so the transformer starts at once and never waits for a better
autoencoder. The autoencoder is then taught to read and write this very space (`autoencoder.py`); its
decoder sees neighbouring latents and restores edges that sixteen components alone would blur.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

PATCH = 8  # pixels to a latent pixel's side
CHANNELS = 16
_WHITENING = 0.5  # 1: every component counts alike; 0: as much as it varies


@dataclass(frozen=True)
class LatentSpace:
    """`basis`: orthonormal rows, CHANNELS by 3*PATCH*PATCH. `scale`: what each component is divided by."""

    mean: np.ndarray[Any, Any]
    basis: np.ndarray[Any, Any]
    scale: np.ndarray[Any, Any]

    @classmethod
    def fit(cls, images: np.ndarray[Any, Any]) -> LatentSpace:
        """From pictures, each H by W by 3, 0 to 1."""
        patches = _patches(images).reshape(-1, 3 * PATCH * PATCH)
        mean = patches.mean(axis=0)
        values, vectors = np.linalg.eigh(np.cov(patches - mean, rowvar=False))
        kept = vectors[:, ::-1][:, :CHANNELS].T
        spread = np.sqrt(values[::-1][:CHANNELS])
        scale = spread**_WHITENING
        scale *= np.sqrt(np.mean((spread / scale) ** 2))  # so that latents vary by 1 on the whole
        return cls(mean.astype(np.float32), np.ascontiguousarray(kept, np.float32), scale.astype(np.float32))

    @classmethod
    def load(cls, file: Path) -> LatentSpace:
        with np.load(file) as stored:
            return cls(stored["mean"], stored["basis"], stored["scale"])

    def save(self, file: Path) -> None:
        np.savez(file, mean=self.mean, basis=self.basis, scale=self.scale)

    def read(self, images: np.ndarray[Any, Any]) -> torch.Tensor:
        """B by H by W by 3 pixels to B by CHANNELS by H/PATCH by W/PATCH latents."""
        import torch

        latents = (_patches(images) - self.mean) @ self.basis.T / self.scale
        read = torch.from_numpy(np.ascontiguousarray(latents.transpose(0, 3, 1, 2), np.float32))
        return read + alternation(*read.shape[2:])

    def write(self, latents: torch.Tensor) -> np.ndarray[Any, Any]:
        """The linear picture of latents: soft, and good enough to watch training by."""
        plain = latents.detach().cpu().float() - alternation(*latents.shape[2:])
        values = plain.numpy().transpose(0, 2, 3, 1)
        patches = values * self.scale @ self.basis + self.mean
        count, down, across, _ = patches.shape
        cells = patches.reshape(count, down, across, PATCH, PATCH, 3).transpose(0, 1, 3, 2, 4, 5)
        pixels: np.ndarray[Any, Any] = cells.reshape(count, down * PATCH, across * PATCH, 3).clip(0, 1)
        return pixels


def alternation(down: int, across: int) -> torch.Tensor:
    """What is added to every picture's latents: the last channel alternates from column to column, the one
    before it from row to row.

    A decoder that only repeats pixels and convolves cannot tell the left of a latent pixel from its right
    where neighbours are equal. Beside a neighbour of the other kind it can. The transformer's patches are 2
    by 2, so to it the pattern is a constant.
    """
    import torch

    pattern = torch.zeros(CHANNELS, down, across)
    pattern[-1, :, 0::2], pattern[-1, :, 1::2] = 1, -1
    pattern[-2, 0::2], pattern[-2, 1::2] = 1, -1
    return pattern


def _patches(images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    count, height, width, _ = images.shape
    cells = images.reshape(count, height // PATCH, PATCH, width // PATCH, PATCH, 3).transpose(0, 1, 3, 2, 4, 5)
    return cells.reshape(count, height // PATCH, width // PATCH, 3 * PATCH * PATCH)
