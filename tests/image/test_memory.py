"""Memory stays flat however many requests come and leave."""

import gc
import random

import psutil
import pytest

from image import malloc_trim
from image.events import LAST, Cancelled
from image.messages import Cancel
from image.pipelines.zimage import ZImage
from image.request import ImageRequest
from tests.image.driving import Driven

REQUESTS = 2_000
GROWTH = 24 << 20  # bytes: less than 200 states of one request would take


@pytest.mark.e2e
@pytest.mark.timeout(600)
def test_two_thousand_requests_with_aborts_leave_memory_flat(pipeline: ZImage) -> None:
    chance, driven = random.Random(0), Driven(pipeline)
    _serve(driven, chance, REQUESTS // 10)
    before = _resident()
    _serve(driven, chance, REQUESTS)
    assert _resident() - before < GROWTH


def _serve(driven: Driven, chance: random.Random, count: int) -> None:
    """A third is cancelled at some step; what has ended is forgotten, as the worker does."""
    left = count
    while left or driven.live():
        for _ in range(min(left, chance.randint(0, 8))):
            side = chance.choice((64, 96, 128))
            driven.submit(ImageRequest(f"boat {left}", side, 64, 2, seed=left, partial_images=1))
            left -= 1
        live = driven.live()
        if live and chance.random() < 0.7:
            driven.mail.put(Cancel(chance.choice(live)))
        if live:
            driven.turn()
        for id, told in driven.events.items():
            if told and isinstance(told[-1], LAST):
                driven.events[id] = [Cancelled()]  # not its pixels


def _resident() -> int:
    gc.collect()
    malloc_trim.give_back()  # as the worker does
    return int(psutil.Process().memory_info().rss)
