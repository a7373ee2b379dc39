"""The promise of docs/image.md: alone the same bytes, in company within a bound, and `exact` runs alone."""

import random

import torch

from image.events import Finished
from image.pipelines.zimage import ZImage
from image.request import ImageRequest
from tests.image.doubles import Transparent
from tests.image.driving import Driven

IN_COMPANY = 1e-5  # largest difference of latents in float32
LEVELS = 1  # and of pixel levels


def test_alone_twice_is_the_same_bytes(pipeline: ZImage, mixed: list[ImageRequest]) -> None:
    """In one engine with its caches warm, and in a new one."""
    driven, another = Driven(pipeline), Driven(pipeline)
    for request in mixed[:5]:
        assert _alone(driven, request) == _alone(driven, request) == _alone(another, request)


def test_who_was_here_before_changes_nothing(pipeline: ZImage, mixed: list[ImageRequest]) -> None:
    """Its prompt was encoded beside longer ones and kept; alone it is drawn from an embedding of its own."""
    fresh, used = Driven(Transparent(pipeline)), Driven(Transparent(pipeline))
    for request in mixed[:8]:
        used.submit(request)
    used.finish()
    for request in mixed[:4]:
        assert _alone(used, request) == _alone(fresh, request)


def test_in_company_it_differs_by_no_more_than_the_bound(pipeline: ZImage, mixed: list[ImageRequest]) -> None:
    request = mixed[3]
    alone = _alone(Driven(Transparent(pipeline)), request)
    for seed in range(3):
        company = random.Random(seed).sample(mixed, 6)
        driven = Driven(Transparent(pipeline))
        ids = [driven.submit(r) for r in [*company[:3], request, *company[3:]]]
        driven.finish()
        together = _pixels(driven, ids[3])
        assert (_floats(together) - _floats(alone)).abs().max() <= IN_COMPANY


def test_pixels_in_company_differ_by_a_level_at_most(pipeline: ZImage) -> None:
    request = ImageRequest("a boat", 64, 64, 3, seed=1)
    alone = _alone(Driven(pipeline), request)
    driven = Driven(pipeline)
    ids = [driven.submit(r) for r in (ImageRequest("fog", 64, 64, 3, seed=2), request)]
    driven.finish()
    assert max(abs(a - b) for a, b in zip(_pixels(driven, ids[1]), alone, strict=True)) <= LEVELS


def test_exact_is_the_same_bytes_in_any_company(pipeline: ZImage, mixed: list[ImageRequest]) -> None:
    exact = ImageRequest("to the bit", 96, 64, 4, seed=5, guidance=2.0, exact=True)
    transparent = Transparent(pipeline)
    alone = _alone(Driven(pipeline), exact)
    driven = Driven(pipeline)
    ids = [driven.submit(r) for r in [*mixed[:4], exact, *mixed[4:8]]]
    driven.finish()
    assert _pixels(driven, ids[4]) == alone
    stepping = Driven(transparent)
    ids = [stepping.submit(r) for r in [*mixed[:4], exact]]
    stepping.finish()
    shape = (16, 8, 12)
    with_it = [batch for batch in transparent.batches if batch == [shape, shape]]
    assert len(with_it) >= exact.steps  # its two rows, and nothing else


def _alone(driven: Driven, request: ImageRequest) -> bytes:
    id = driven.submit(request)
    driven.finish()
    return _pixels(driven, id)


def _pixels(driven: Driven, id: object) -> bytes:
    last = driven.events[id][-1]  # type: ignore[index]
    assert isinstance(last, Finished)
    return last.pixels.rgb


def _floats(raw: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(raw), dtype=torch.float32)
