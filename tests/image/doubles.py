"""Pipelines that wrap the real one: to see inside, to fail on purpose, to step by hand."""

import threading
from collections.abc import Sequence

import torch

from image.pipelines.base import Pixels, Row, Schedule, Tokens
from image.pipelines.zimage import ZImage
from image.request import ImageRequest


class Wrapped:
    """Passes everything on."""

    def __init__(self, inner: ZImage) -> None:
        self.inner = inner
        self.model = inner.model
        self.max_side = inner.max_side

    def tokenize(self, prompt: str) -> Tokens:
        return self.inner.tokenize(prompt)

    def image_tokens(self, request: ImageRequest) -> int:
        return self.inner.image_tokens(request)

    def row_tokens(self, request: ImageRequest, text_tokens: int) -> int:
        return self.inner.row_tokens(request, text_tokens)

    def encode(self, prompts: Sequence[Tokens]) -> list[torch.Tensor]:
        return self.inner.encode(prompts)

    def noise(self, request: ImageRequest) -> torch.Tensor:
        return self.inner.noise(request)

    def schedule(self, request: ImageRequest) -> Schedule:
        return self.inner.schedule(request)

    def velocity(self, rows: Sequence[Row]) -> list[torch.Tensor]:
        return self.inner.velocity(rows)

    def decode(self, latents: torch.Tensor) -> Pixels:
        return self.inner.decode(latents)


class Transparent(Wrapped):
    """Hands out latents instead of pictures, and keeps the shape of every batch."""

    def __init__(self, inner: ZImage) -> None:
        super().__init__(inner)
        self.batches: list[list[tuple[int, ...]]] = []

    def velocity(self, rows: Sequence[Row]) -> list[torch.Tensor]:
        self.batches.append([tuple(row.latents.shape) for row in rows])
        return super().velocity(rows)

    def decode(self, latents: torch.Tensor) -> Pixels:
        return Pixels(0, 0, latents.numpy().tobytes())


class Poisoned(Transparent):
    """NaN for one seed's latents, an exception for another's, in whatever company they step."""

    def __init__(self, inner: ZImage, *, nan_seed: int, raising_seed: int) -> None:
        super().__init__(inner)
        self._nan_seed = nan_seed
        self._raising_seed = raising_seed

    def noise(self, request: ImageRequest) -> torch.Tensor:
        latents = super().noise(request)
        if request.seed == self._nan_seed:
            latents[0, 0, 0] = float("nan")
        if request.seed == self._raising_seed:
            latents[0, 0, 0] = float("inf")
        return latents

    def velocity(self, rows: Sequence[Row]) -> list[torch.Tensor]:
        if any(row.latents.isinf().any() for row in rows):
            raise RuntimeError("the device refuses this batch")
        return super().velocity(rows)


class Stepped(Wrapped):
    """Every transformer call waits for a permit, so that a test decides when a step happens."""

    def __init__(self, inner: ZImage) -> None:
        super().__init__(inner)
        self.permits = threading.Semaphore(0)
        self.calls = 0

    def velocity(self, rows: Sequence[Row]) -> list[torch.Tensor]:
        self.calls += 1
        assert self.permits.acquire(timeout=20)
        return super().velocity(rows)
