"""A device that runs out of memory or hangs, and what is left of everybody's images."""

import asyncio
from collections.abc import Sequence

import pytest
import torch

from core.device.lost import DeviceLost
from core.errors import SoundstageError
from image.async_engine import AsyncEngine
from image.device import Device
from image.embeddings import Embeddings, Key
from image.engine import Engine, Sizing
from image.events import Failed, Finished
from image.messages import CommandQueue, Publish
from image.pipelines.base import Row, Schedule, Start, Tokens
from image.pipelines.pixels import as_levels
from image.pipelines.zimage import ZImage
from image.request import ImageRequest, Pixels
from tests.fakes.wait import eventually, soon
from tests.image.doubles import Stepped, Transparent
from tests.image.driving import MIXING, Driven, assert_as_stock
from tests.image.reference import Stock


class Small(Transparent):
    """A device that holds so many tokens in one call, and the encoder so many prompts; it says so as CUDA does."""

    def __init__(self, inner: ZImage, *, rows: int = 99, prompts: int = 99, decoded: int = 99) -> None:
        super().__init__(inner)
        self.rows, self.prompts, self.decoded = rows, prompts, decoded
        self.released = 0

    def velocity(self, rows: Sequence[Row]) -> list[torch.Tensor]:
        self._hold(len(rows), self.rows)
        return super().velocity(rows)

    def encode(self, prompts: Sequence[Tokens]) -> list[torch.Tensor]:
        self._hold(len(prompts), self.prompts)
        return super().encode(prompts)

    def decode(self, latents: Sequence[torch.Tensor]) -> list[Pixels]:
        self._hold(len(latents), self.decoded)
        return super().decode(latents)

    def release_memory(self) -> None:
        self.released += 1

    @staticmethod
    def _hold(wanted: int, held: int) -> None:
        if wanted > held:
            raise torch.OutOfMemoryError("CUDA out of memory")


def requests(count: int) -> list[ImageRequest]:
    return [ImageRequest(f"boat {i}", 64, 64, 3, seed=i) for i in range(count)]


def test_out_of_memory_splits_the_batch_and_everybody_ends_well(pipeline: ZImage, stock: Stock) -> None:
    small = Small(pipeline, rows=2, prompts=3, decoded=1)
    driven = Driven(small)
    ids = {driven.submit(request): request for request in requests(5)}
    driven.finish()
    for id, request in ids.items():
        assert_as_stock(driven, id, request, stock)
    assert small.released > 0
    assert driven.news is not None
    counters = driven.news.counters
    assert counters.out_of_memory > 0
    assert counters.step_tokens < MIXING.tokens  # later steps are smaller


def test_one_retry_after_the_caches_are_empty(pipeline: ZImage, stock: Stock) -> None:
    """Memory that comes back with the caches: nobody is split, nobody fails."""

    class Tight(Small):
        def release_memory(self) -> None:
            super().release_memory()
            self.rows = 99

    driven = Driven(Tight(pipeline, rows=1))
    ids = {driven.submit(request): request for request in requests(4)}
    driven.finish()
    for id, request in ids.items():
        assert_as_stock(driven, id, request, stock)
    assert driven.news is not None
    assert driven.news.counters.out_of_memory == 1
    assert driven.news.counters.step_tokens == MIXING.tokens


def test_only_the_request_that_never_fits_fails(pipeline: ZImage, stock: Stock) -> None:
    """With guidance it takes two rows, and the device holds one."""
    driven = Driven(Small(pipeline, rows=1))
    good = {driven.submit(request): request for request in requests(3)}
    large = driven.submit(ImageRequest("large", 64, 64, 3, seed=9, guidance=2.0))
    driven.finish()
    last = driven.events[large][-1]
    assert isinstance(last, Failed)
    assert (last.error.status, last.error.code) == (503, "out_of_memory")
    for id, request in good.items():
        assert_as_stock(driven, id, request, stock)


def test_a_picture_that_is_not_finite_fails_alone(pipeline: ZImage) -> None:
    """The latents are finite, the decoder's answer is not."""

    class BadDecoder(Transparent):
        def start(self, request: ImageRequest, schedule: Schedule) -> Start:
            start = super().start(request, schedule)
            return Start(start.latents + 1e6) if request.seed == 1 else start

        def decode(self, latents: Sequence[torch.Tensor]) -> list[Pixels]:
            if any(one.mean() > 1e5 for one in latents):
                as_levels(torch.full((1, 3, 8, 8), float("nan")))
            return super().decode(latents)

    driven = Driven(BadDecoder(pipeline))
    bad = driven.submit(ImageRequest("bad", 64, 64, 1, seed=1))
    good = driven.submit(ImageRequest("good", 64, 64, 1, seed=2))
    driven.finish()
    last = driven.events[bad][-1]
    assert isinstance(last, Failed)
    assert last.error.code == "not_finite"
    assert isinstance(driven.events[good][-1], Finished)


async def test_a_hung_device_turns_readiness_off_and_lets_nobody_wait(pipeline: ZImage) -> None:
    now = [0.0]
    stepped, device = Stepped(pipeline), Device(clock=lambda: now[0])
    engine = AsyncEngine(
        lambda mail, publish: Engine(stepped, Sizing(MIXING), mail, publish, device),
        device,
        capacity=4,
        hang_seconds=10,
    )
    stepped.warm = True
    await engine.start()
    [waiting] = engine.submit(requests(1))
    await eventually(lambda: stepped.calls == 1, "the first step's start")
    now[0] = 9.0
    assert (engine.ready, engine.watch()) == (True, False)
    now[0] = 11.0
    assert (engine.ready, engine.watch()) == (False, True)
    error = await _error(waiting.result())
    assert (error.status, error.code) == (503, "device_hung")
    assert _refusal(engine).code == "device_hung"
    stepped.permits.release(50)  # the device answers after all
    await eventually(lambda: engine.ready, "readiness")
    [again] = engine.submit(requests(1))
    assert await soon(again.result())
    await engine.stop()


class Losing(Transparent):
    """A device that is lost in its second call, and says so in every later one."""

    calls = 0

    def velocity(self, rows: Sequence[Row]) -> list[torch.Tensor]:
        self.calls += 1
        if self.calls > 1:
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
        return super().velocity(rows)


def test_a_device_that_is_lost_ends_the_engine_at_once_and_everybody_is_told(pipeline: ZImage) -> None:
    losing = Losing(pipeline)
    driven = Driven(losing)
    ids = [driven.submit(request) for request in requests(4)]
    with pytest.raises(DeviceLost):
        driven.finish()
    assert losing.calls == 2  # nobody is tried alone
    for id in ids:
        last = driven.events[id][-1]
        assert isinstance(last, Failed)
        assert (last.error.status, last.error.code) == (503, "device_lost")


async def test_after_the_device_is_lost_nothing_is_taken_and_the_worker_is_not_ready(pipeline: ZImage) -> None:
    losing, device = Losing(pipeline), Device()
    engine = AsyncEngine(
        lambda mail, publish: Engine(losing, Sizing(MIXING), mail, publish, device), device, capacity=8
    )
    await engine.start()
    ready = [engine.ready]
    errors = await asyncio.gather(*(_error(one.result()) for one in engine.submit(requests(3))))
    assert {(error.status, error.code) for error in errors} == {(503, "device_lost")}
    with pytest.raises(DeviceLost):
        await soon(engine.until_lost())
    assert [*ready, engine.ready] == [True, False]
    assert _refusal(engine).code == "device_lost"
    await soon(engine.stop())


async def test_a_device_that_is_lost_while_the_model_loads_is_lost_too(pipeline: ZImage) -> None:
    def build(mail: CommandQueue, publish: Publish) -> Engine:
        raise RuntimeError("CUDA error: unspecified launch failure")

    engine = AsyncEngine(build, Device(), capacity=8)
    with pytest.raises(RuntimeError):
        await engine.start()
    with pytest.raises(RuntimeError):
        await soon(engine.until_lost())


async def _error(result: object) -> SoundstageError:
    try:
        await soon(result)  # type: ignore[arg-type]
    except SoundstageError as exc:
        return exc
    raise AssertionError("it did not fail")


def _refusal(engine: AsyncEngine) -> SoundstageError:
    try:
        engine.submit(requests(1))
    except SoundstageError as exc:
        return exc
    raise AssertionError("it was taken")


def test_embeddings_are_kept_within_their_bytes() -> None:
    cache = Embeddings(capacity=100_000)
    keys = [Key((i,), False) for i in range(3)]
    for key in keys:
        cache.put(key, torch.zeros(10_000))
    assert 2 * 40_000 < cache.bytes <= 100_000  # with what is kept beside the numbers
    assert [cache.get(key) is None for key in keys] == [True, False, False]
    cache.get(keys[1])
    cache.put(keys[0], torch.zeros(10_000))
    assert [cache.get(key) is None for key in keys] == [False, False, True]
    cache.put(keys[0], torch.zeros(100_000))  # larger than all of it
    assert (cache.bytes, cache.get(keys[0])) == (0, None)


def test_many_short_prompts_stay_within_them_too() -> None:
    """What Python keeps of each counts: a tiny embedding is hardly more than that."""
    cache = Embeddings(capacity=64_000)
    for i in range(1000):
        cache.put(Key((i, 1, 2), False), torch.zeros(4))
    assert cache.bytes <= 64_000
    assert sum(cache.get(Key((i, 1, 2), False)) is not None for i in range(1000)) < 64


def test_an_embedding_that_was_computed_alone_serves_everybody() -> None:
    cache, apart, together = Embeddings(capacity=100_000), Key((1,), True), Key((1,), False)
    cache.put(together, torch.zeros(1))
    assert cache.get(apart) is None
    cache.put(apart, torch.ones(1))
    for key in (apart, together):
        kept = cache.get(key)
        assert kept is not None
        assert kept.item() == 1.0


def test_a_prompt_is_encoded_once(pipeline: ZImage) -> None:
    class Counting(Transparent):
        encoded = 0

        def encode(self, prompts: Sequence[Tokens]) -> list[torch.Tensor]:
            self.encoded += len(prompts)
            return super().encode(prompts)

    counting = Counting(pipeline)
    driven = Driven(counting)
    for seed in range(3):
        driven.submit(ImageRequest("the same", 64, 64, 1, seed=seed))
    driven.finish()
    driven.submit(ImageRequest("the same", 64, 64, 1, seed=9))
    driven.finish()
    assert counting.encoded == 1
    assert driven.news is not None
    assert driven.news.counters.cache_hits == 1
