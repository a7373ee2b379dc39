"""Plain array arithmetic on pictures: luminance and resampling."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
"""An upright RGB picture, shape (height, width, 3)."""

Plane = NDArray[np.floating[Any]]
"""One channel, shape (height, width), values 0 to 1."""

LUMA = np.array([0.2126, 0.7152, 0.0722], dtype=np.float32)  # Rec. 709


def luminance(pixels: Pixels) -> Plane:
    """Gamma-encoded luma, 0 black to 1 white."""
    return pixels.astype(np.float32) @ LUMA / np.float32(255)


def resample(plane: Plane, height: int, width: int) -> Plane:
    """`plane` at another size: area means where it shrinks (no aliasing), linear between samples where it grows."""
    return _along_rows(_along_rows(plane, height).T, width).T


def _along_rows(plane: Plane, count: int) -> Plane:
    rows = plane.shape[0]
    if count == rows:
        return plane
    return _means(plane, count) if count < rows else _between(plane, count)


def _means(plane: Plane, count: int) -> Plane:
    """Each new row is the mean of the span it covers, partial rows weighted: differences of the running integral."""
    integral = np.concatenate([np.zeros((1, plane.shape[1])), np.cumsum(plane, axis=0, dtype=np.float64)])
    edges = np.linspace(0, plane.shape[0], count + 1)
    low = np.minimum(edges.astype(int), plane.shape[0] - 1)
    at_edge = integral[low] + (edges - low)[:, None] * plane[low]
    means: Plane = np.diff(at_edge, axis=0) * (count / plane.shape[0])
    return means


def _between(plane: Plane, count: int) -> Plane:
    rows = plane.shape[0]
    at = np.clip((np.arange(count) + 0.5) * rows / count - 0.5, 0, rows - 1)
    low = np.minimum(at.astype(int), max(rows - 2, 0))
    high = np.minimum(low + 1, rows - 1)
    share = (at - low)[:, None]
    between: Plane = plane[low] * (1 - share) + plane[high] * share
    return between
