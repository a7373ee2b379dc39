"""Pipelines that wrap the real one: to see inside, to fail on purpose, to step by hand."""

import threading
from collections.abc import Sequence

import torch

from image.pipelines.base import Row, Schedule, Start, Tokens
from image.pipelines.zimage import ZImage
from image.request import ImageRequest, Pixels


class Wrapped:
    """Passes everything on."""

    def __init__(self, inner: ZImage) -> None:
        self.inner = inner
        self.model = inner.model
        self.max_side = inner.max_side
        self.canvas = inner.canvas
        self.abilities = inner.abilities
        self.adapters = inner.adapters

    def tokenize(self, prompt: str) -> Tokens:
        return self.inner.tokenize(prompt)

    def image_tokens(self, request: ImageRequest) -> int:
        return self.inner.image_tokens(request)

    def row_tokens(self, request: ImageRequest, text_tokens: int) -> int:
        return self.inner.row_tokens(request, text_tokens)

    def encode(self, prompts: Sequence[Tokens]) -> list[torch.Tensor]:
        return self.inner.encode(prompts)

    def start(self, request: ImageRequest, schedule: Schedule) -> Start:
        return self.inner.start(request, schedule)

    def schedule(self, request: ImageRequest) -> Schedule:
        return self.inner.schedule(request)

    def velocity(self, rows: Sequence[Row]) -> list[torch.Tensor]:
        return self.inner.velocity(rows)

    def decode(self, latents: Sequence[torch.Tensor]) -> list[Pixels]:
        return self.inner.decode(latents)

    def preview(self, latents: Sequence[torch.Tensor]) -> list[Pixels]:
        return self.inner.preview(latents)

    def state_bytes(self, request: ImageRequest, text_tokens: int) -> int:
        return self.inner.state_bytes(request, text_tokens)

    def free_bytes(self) -> int:
        return self.inner.free_bytes()

    def release_memory(self) -> None:
        self.inner.release_memory()

    def reset_peak(self) -> None:
        self.inner.reset_peak()

    def peak_bytes(self) -> int:
        return self.inner.peak_bytes()

    @property
    def fingerprint(self) -> str:
        return self.inner.fingerprint


class Transparent(Wrapped):
    """Hands out latents instead of pictures, and keeps the shape of every batch."""

    def __init__(self, inner: ZImage) -> None:
        super().__init__(inner)
        self.batches: list[list[tuple[int, ...]]] = []

    def velocity(self, rows: Sequence[Row]) -> list[torch.Tensor]:
        self.batches.append([tuple(row.latents.shape) for row in rows])
        return super().velocity(rows)

    def decode(self, latents: Sequence[torch.Tensor]) -> list[Pixels]:
        return [Pixels(0, 0, one.numpy().tobytes()) for one in latents]


class Poisoned(Transparent):
    """NaN for one seed's latents, an exception for another's, in whatever company they step."""

    def __init__(self, inner: ZImage, *, nan_seed: int, raising_seed: int) -> None:
        super().__init__(inner)
        self._nan_seed = nan_seed
        self._raising_seed = raising_seed

    def start(self, request: ImageRequest, schedule: Schedule) -> Start:
        start = super().start(request, schedule)
        if request.seed == self._nan_seed:
            start.latents[0, 0, 0] = float("nan")
        if request.seed == self._raising_seed:
            start.latents[0, 0, 0] = float("inf")
        return start

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
        self.warm = False

    def velocity(self, rows: Sequence[Row]) -> list[torch.Tensor]:
        if self.warm:
            self.calls += 1
            assert self.permits.acquire(timeout=90)
        self.warm = True  # the first call is the engine's own
        return super().velocity(rows)
