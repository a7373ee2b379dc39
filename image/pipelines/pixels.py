"""From a decoder's output to bytes."""

from __future__ import annotations

import torch

from image.pipelines.base import NotFinite
from image.request import Pixels


def as_levels(images: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W) from -1 to 1 → uint8. Raises NotFinite."""
    if not bool(torch.isfinite(images).all()):
        raise NotFinite("the decoded image is not finite")
    return (images / 2 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8)


def as_pixels(levels: torch.Tensor) -> list[Pixels]:
    """(B, 3, H, W) uint8 → one picture each."""
    grids = levels.permute(0, 2, 3, 1).contiguous().cpu()  # (B, H, W, 3)
    return [Pixels(grid.shape[1], grid.shape[0], grid.numpy().tobytes()) for grid in grids]
