"""The engine over the real tiny pipeline, driven turn by turn on the test's own thread."""

import random

import pytest

from core.errors import InvalidRequest
from image.events import Admitted, Cancelled, Failed, Finished, Partial, Progress
from image.messages import Cancel, Stop
from image.pipelines.zimage import ZImage
from image.request import ImageRequest, RequestId
from tests.image.doubles import Poisoned, Transparent, Wrapped
from tests.image.driving import Driven, assert_as_stock
from tests.image.reference import Stock


@pytest.mark.parametrize("order", range(4))
def test_mixed_requests_equal_stock_run_alone(
    order: int, pipeline: ZImage, stock: Stock, mixed: list[ImageRequest]
) -> None:
    """They join in random order at random steps, and others that leave early step with them."""
    chance = random.Random(order)
    transparent = Transparent(pipeline)
    driven = Driven(transparent)
    coming = [(request, True) for request in mixed]
    coming += [(ImageRequest("leaves early", 96, 96, 50, 7), False) for _ in range(4)]
    chance.shuffle(coming)
    stay: dict[RequestId, ImageRequest] = {}
    leave: list[RequestId] = []
    while coming or driven.live():
        for _ in range(min(len(coming), chance.randint(0, 4))):
            request, stays = coming.pop()
            id = driven.submit(request)
            if stays:
                stay[id] = request
            else:
                leave.append(id)
        if leave and (not coming or chance.random() < 0.2):
            driven.mail.put(Cancel(leave.pop()))
        if driven.live():
            driven.turn()
    for id, request in stay.items():
        assert_as_stock(driven, id, request, stock)
    assert max(len(batch) for batch in transparent.batches) >= 6
    assert max(len(set(batch)) for batch in transparent.batches) >= 4


def test_pixels_are_stock_pixels(pipeline: ZImage, stock: Stock, mixed: list[ImageRequest]) -> None:
    driven = Driven(pipeline)
    id = driven.submit(mixed[4])
    driven.finish()
    last = driven.events[id][-1]
    assert isinstance(last, Finished)
    assert (last.pixels.width, last.pixels.height) == (mixed[4].width, mixed[4].height)
    expected = stock.rgb(mixed[4])
    assert len(last.pixels.rgb) == len(expected)
    # A latent that differs by 1e-6 can round to the next of 256 levels.
    assert max(abs(a - b) for a, b in zip(last.pixels.rgb, expected, strict=True)) <= 1


def test_the_same_request_twice_gives_the_same_bytes(pipeline: ZImage, mixed: list[ImageRequest]) -> None:
    driven = Driven(pipeline)
    results = []
    for _ in range(2):
        id = driven.submit(mixed[2])
        driven.finish()
        results.append(driven.events[id][-1])
    assert results[0] == results[1]


def test_events_tell_every_step_and_the_previews_asked_for(pipeline: ZImage) -> None:
    driven = Driven(pipeline)
    id = driven.submit(ImageRequest("a boat", 64, 64, 8, 1, partial_images=3))
    driven.finish()
    told = driven.events[id]
    assert [e.step for e in told if isinstance(e, Progress)] == list(range(1, 9))
    assert [e.index for e in told if isinstance(e, Partial)] == [0, 1, 2]
    assert [i for i, e in enumerate(told) if isinstance(e, Partial)] == [3, 6, 9]  # after steps 2, 4 and 6
    assert isinstance(told[-1], Finished)


def test_cancel_takes_effect_before_the_next_step(pipeline: ZImage) -> None:
    transparent = Transparent(pipeline)
    driven = Driven(transparent)
    leaving = driven.submit(ImageRequest("leaves", 64, 64, 50, 1))
    staying = driven.submit(ImageRequest("stays", 64, 64, 3, 2))
    driven.turn()
    driven.mail.put(Cancel(leaving))
    driven.turn()
    assert [len(batch) for batch in transparent.batches] == [2, 1]
    assert driven.events[leaving] == [Admitted(), Progress(1, 50), Cancelled()]
    driven.finish()
    assert isinstance(driven.events[staying][-1], Finished)
    driven.mail.put(Cancel(leaving))  # of a request that has ended: nothing happens
    driven.submit(ImageRequest("next", 64, 64, 1, 3))
    driven.finish()
    assert driven.events[leaving][-1] == Cancelled()


def test_a_bad_request_fails_alone(pipeline: ZImage, stock: Stock, mixed: list[ImageRequest]) -> None:
    """One becomes NaN, one makes every batch it is in raise, one has too long a prompt, one is too large."""
    driven = Driven(Poisoned(pipeline, nan_seed=1, raising_seed=2))
    good = {driven.submit(request): request for request in mixed[:3]}
    nan = driven.submit(ImageRequest("becomes NaN", 64, 64, 4, 1))
    raising = driven.submit(ImageRequest("raises", 64, 64, 4, 2))
    long = driven.submit(ImageRequest("word " * 600, 64, 64, 4, 3))
    huge = driven.submit(ImageRequest("too large", 4096, 64, 4, 4))
    good |= {driven.submit(request): request for request in mixed[3:6]}
    driven.finish()

    def error(id: RequestId) -> Exception:
        last = driven.events[id][-1]
        assert isinstance(last, Failed)
        return last.error

    assert (error(nan).status, error(nan).code) == (500, "not_finite")  # type: ignore[attr-defined]
    assert (error(raising).status, error(raising).code) == (500, "internal_error")  # type: ignore[attr-defined]
    assert "refuses" not in str(error(raising))
    for id, param in ((long, "prompt"), (huge, "size")):
        assert isinstance(error(id), InvalidRequest)
        assert error(id).param == param  # type: ignore[attr-defined]
    for id, request in good.items():
        assert_as_stock(driven, id, request, stock)


def test_an_error_of_the_loop_itself_does_not_end_it(pipeline: ZImage) -> None:
    class Unpredictable(Wrapped):
        def row_tokens(self, request: ImageRequest, text_tokens: int) -> int:
            if request.seed == 1:
                return None  # type: ignore[return-value] # the scheduler cannot compare it
            return super().row_tokens(request, text_tokens)

    driven = Driven(Unpredictable(pipeline))
    broken = driven.submit(ImageRequest("x", 64, 64, 2, 1))
    driven.turn()
    assert isinstance(driven.events[broken][-1], Failed)
    fine = driven.submit(ImageRequest("x", 64, 64, 2, 2))
    driven.finish()
    assert isinstance(driven.events[fine][-1], Finished)


def test_stop_fails_what_is_left(pipeline: ZImage) -> None:
    driven = Driven(pipeline)
    id = driven.submit(ImageRequest("x", 64, 64, 9, 1))
    driven.turn()
    driven.mail.put(Stop())
    driven.engine.run()
    last = driven.events[id][-1]
    assert isinstance(last, Failed)
    assert last.error.status == 503


def test_counters_add_up(pipeline: ZImage) -> None:
    driven = Driven(pipeline)
    driven.submit(ImageRequest("a", 64, 64, 2, 1))
    driven.submit(ImageRequest("a", 128, 128, 1, 2))
    driven.finish()
    assert driven.news is not None
    counters = driven.news.counters
    small, large = 32 + 32, 64 + 32  # image tokens rounded to 32, and 32 of text
    assert (counters.turns, counters.request_steps) == (2, 3)
    assert (counters.tokens, counters.padding) == (2 * large + small, large - small)
    assert (counters.running, counters.remaining) == (0, 0)
