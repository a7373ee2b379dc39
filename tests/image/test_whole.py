"""A pipeline that runs whole requests: a tiny SDXL with random weights, beside the stepped model."""

from pathlib import Path
from typing import Any

import pytest
import torch

from image.building import Load
from image.events import Cancelled, Failed, Finished, Partial, Progress
from image.messages import Cancel, Stop
from image.pipelines.whole import OnStep, WholePipeline
from image.pipelines.zimage import ZImage
from image.request import ImageRequest
from tests.fakes.serving import serving
from tests.image.asking import GENERATIONS, get, picture, post, ready, settings
from tests.image.driving_whole import Driven, Watched, asked
from training.untrained import MODEL

# diffusers' own, with numpy 2
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")]


def test_equal_requests_share_a_run_and_equal_themselves_alone(sdxl: WholePipeline) -> None:
    together, alone = Driven(sdxl), Driven(sdxl)
    mixed = [asked(1), asked(2, prompt="fog"), asked(3, width=96), asked(4, steps=2), asked(5, prompt="rain")]
    ids = [together.submit(request) for request in mixed]
    together.finish()
    assert together.runs == [1, 3, 1] or sorted(together.runs) == [1, 1, 3]
    for id, request in zip(ids, mixed, strict=True):
        single = alone.submit(request)
        alone.finish()
        pairs = zip(together.rgb(id), alone.rgb(single), strict=True)
        assert max(abs(a - b) for a, b in pairs) <= 1
    assert len({together.rgb(id) for id in ids}) == len(ids)


def test_the_record_says_who_runs_and_why_others_wait(sdxl: WholePipeline) -> None:
    driven = Driven(sdxl, batch=2)
    for request in (asked(1), asked(2, steps=9), asked(3, prompt="fog"), asked(4)):
        driven.submit(request)
    driven.engine.run_once()
    assert driven.news is not None
    decision = driven.news.counters.decision
    assert decision is not None
    assert decision.step == (0, 2)
    verdicts = {reason.id: reason.verdict for reason in decision.reasons}
    assert verdicts == {0: "leads", 2: "joins", 3: "no slot", 1: "not equal"}


def test_it_tells_progress_and_previews(sdxl: WholePipeline) -> None:
    driven = Driven(sdxl)
    id = driven.submit(asked(1, steps=4, partial_images=3, guidance=3.0, negative_prompt="fog"))
    driven.finish()
    told = driven.events[id]
    assert [e.step for e in told if isinstance(e, Progress)] == [1, 2, 3, 4]
    partials = [e for e in told if isinstance(e, Partial)]
    assert [e.index for e in partials] == [0, 1, 2]
    assert {(e.pixels.width, e.pixels.height) for e in partials} == {(64, 64)}


def test_who_leaves_is_dropped_and_a_run_for_nobody_ends_at_once(sdxl: WholePipeline) -> None:
    driven = Driven(sdxl)
    leaving, staying = driven.submit(asked(1, steps=9)), driven.submit(asked(2, steps=9))
    driven.after_step = {2: Cancel(leaving)}
    driven.finish()
    assert driven.events[leaving][-2:] == [Progress(1, 9), Cancelled()]
    assert isinstance(driven.events[staying][-1], Finished)
    alone = driven.submit(asked(3, steps=9))
    driven.after_step = {2: Cancel(alone), 3: Stop()}
    driven.finish()
    assert driven.events[alone][-2:] == [Progress(1, 9), Cancelled()]
    assert 3 in driven.after_step  # no third step was taken


def test_a_bad_request_fails_alone(sdxl: WholePipeline) -> None:
    class Failing(Watched):
        def run(self, requests: list[ImageRequest], on_step: OnStep) -> Any:
            if any(r.seed == 2 for r in requests):
                raise RuntimeError("the device refuses")
            if len(requests) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().run(requests, on_step)

    driven = Driven(sdxl)
    driven.engine.pipeline = Failing(sdxl, driven)  # type: ignore[assignment]
    ids = [driven.submit(asked(seed)) for seed in (1, 2, 3, 4)]
    driven.finish()
    assert [isinstance(driven.events[id][-1], Finished) for id in ids] == [True, False, True, True]


@pytest.mark.parametrize(
    ("given", "param"),
    [({"adapter": "style"}, "lora"), ({"guidance": 0.5}, "guidance"), ({"prompt": "word " * 80}, "prompt")],
)
def test_what_it_cannot_do_is_named(sdxl: WholePipeline, given: dict[str, Any], param: str) -> None:
    driven = Driven(sdxl)
    id = driven.submit(asked(1, **given))
    driven.engine.run_once()
    last = driven.events[id][-1]
    assert isinstance(last, Failed)
    assert (last.error.status, last.error.param) == (400, param)


async def test_two_models_behind_one_worker(pipeline: ZImage, sdxl: WholePipeline, tmp_path: Path) -> None:
    from image.app import create_app

    loads: dict[str, Load] = {MODEL: lambda: pipeline, "tiny-sdxl": lambda: sdxl}
    async with serving(create_app(settings(tmp_path), loads)) as port:
        await ready(port)
        assert [m["id"] for m in (await get(port, "/v1/models")).json()["data"]] == [MODEL, "tiny-sdxl"]
        for model in loads:
            told = (await post(port, GENERATIONS, {"prompt": "a boat", "model": model, "seed": 1})).json()
            assert (told["model"], picture(told["data"][0]["b64_json"]).size) == (model, (64, 64))
