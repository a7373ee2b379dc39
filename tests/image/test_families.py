"""SDXL, FLUX.1 and FLUX.2-klein at a tiny size: edits as the stock siblings draw them, previews, what is refused."""

import io
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from diffusers import (
    AutoPipelineForImage2Image,
    AutoPipelineForInpainting,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from PIL import Image

from core.errors import InvalidRequest
from image.app import create_app
from image.building import Load
from image.events import Finished, Partial, Progress
from image.pipelines import unfinished
from image.pipelines.load import CheckpointError
from image.pipelines.whole import Unfit, WholePipeline
from image.request import ImageRequest, Pixels, Source
from tests.fakes.serving import serving
from tests.image.asking import gradient, picture, post_form, ready, settings
from tests.image.driving_whole import Driven, asked

# diffusers' own, with numpy 2
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")]
PHOTO = Image.open(io.BytesIO(gradient(64, 64)))
MASK = Image.new("L", (64, 64))
MASK.paste(255, (32, 0, 64, 64))


def source(strength: float, masked: bool = False) -> Source:
    return Source((Pixels(64, 64, PHOTO.tobytes()),), strength, MASK.tobytes() if masked else None)


def drawn(pipeline: WholePipeline, request: ImageRequest) -> tuple[bytes, int]:
    """The picture and the steps it took."""
    driven = Driven(pipeline)
    id = driven.submit(request)
    driven.finish()
    taken = [e.step for e in driven.events[id] if isinstance(e, Progress)]
    return driven.rgb(id), len(taken)


def stock(kind: Any, pipeline: WholePipeline, steps: int, **given: Any) -> bytes:
    sibling = kind.from_pipe(pipeline.stock)
    sibling.set_progress_bar_config(disable=True)
    generator = torch.Generator("cpu").manual_seed(7)
    image = sibling(prompt="a boat", num_inference_steps=steps, generator=generator, **given).images[0]
    raw: bytes = image.tobytes()
    return raw


def apart(one: bytes, other: bytes) -> int:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("family", ["sdxl", "flux"])
def test_edits_are_what_the_stock_sibling_draws(family: str, request: pytest.FixtureRequest) -> None:
    pipeline: WholePipeline = request.getfixturevalue(family)
    size = {"width": 64, "height": 64}
    guidance = {"guidance_scale": 3.0, **(size if family == "flux" else {})}
    edited, taken = drawn(pipeline, asked(7, steps=8, guidance=3.0, source=source(0.5)))
    expected = stock(AutoPipelineForImage2Image, pipeline, 8, image=PHOTO, strength=0.5, **guidance)
    assert (apart(edited, expected) <= 1, taken) == (True, 4)
    painted, taken = drawn(pipeline, asked(7, steps=4, guidance=3.0, source=source(1.0, masked=True)))
    given = {"image": PHOTO, "mask_image": MASK, "strength": 1.0, **guidance, **size}
    assert (apart(painted, stock(AutoPipelineForInpainting, pipeline, 4, **given)) <= 1, taken) == (True, 4)
    assert edited != painted


@pytest.mark.parametrize("family", ["sdxl", "flux"])
@pytest.mark.parametrize(("steps", "strength"), [(1, 0.3), (7, 0.7), (5, 0.21)])
def test_an_edit_takes_the_steps_it_says(
    family: str, steps: int, strength: float, request: pytest.FixtureRequest
) -> None:
    wanted = asked(7, steps=steps, source=source(strength))
    assert drawn(request.getfixturevalue(family), wanted)[1] == wanted.own_steps


def test_klein_looks_at_several_pictures(klein: WholePipeline) -> None:
    assert (klein.abilities.pictures, klein.abilities.masks, klein.abilities.strength) == (16, False, False)
    wide = Image.open(io.BytesIO(gradient(96, 64)))
    two = Source((Pixels(64, 64, PHOTO.tobytes()), Pixels(96, 64, wide.tobytes())))
    edited, taken = drawn(klein, asked(7, source=two))
    expected = stock(AutoPipelineForImage2Image, klein, 3, image=[PHOTO, wide], width=64, height=64)
    assert (apart(edited, expected) <= 1, taken) == (True, 3)
    assert drawn(klein, asked(7))[0] != drawn(klein, asked(7, source=source(1.0)))[0] != edited


@pytest.mark.parametrize("family", ["sdxl", "flux", "klein"])
def test_partials_are_estimates_that_come_closer(family: str, request: pytest.FixtureRequest) -> None:
    """The last estimate is close to the picture: through the VAE, not the matrix, so that they compare."""
    from image.pipelines.previews import through_vae

    pipeline: WholePipeline = request.getfixturevalue(family)
    pipeline.show_with(through_vae(pipeline.vae))
    driven = Driven(pipeline)
    id = driven.submit(asked(1, steps=12, partial_images=3))
    driven.finish()
    told = driven.events[id]
    shown = [e.pixels for e in told if isinstance(e, Partial)]
    last = told[-1]
    assert isinstance(last, Finished)
    assert {(p.width, p.height) for p in shown} == {(64, 64)}
    away = [sum(abs(a - b) for a, b in zip(p.rgb, last.pixels.rgb, strict=True)) for p in shown]
    assert away[2] < away[0]


@pytest.mark.parametrize("kind", [EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler])
def test_the_estimate_is_exact_for_a_straight_path(kind: Any) -> None:
    """Noise that is predicted without error: from any two neighbouring steps the picture is known."""
    scheduler = kind()
    scheduler.set_timesteps(6)
    picture, noise = torch.full((1, 4, 2, 2), 0.3), torch.full((1, 4, 2, 2), -0.8)
    flow = kind is FlowMatchEulerDiscreteScheduler
    sigma = scheduler.sigmas[0]
    before = (1 - sigma) * picture + sigma * noise if flow else picture + sigma * noise
    for t in scheduler.timesteps[:3]:
        scheduler.scale_model_input(before, t) if not flow else None
        now = scheduler.step(noise - picture if flow else noise, t, before, return_dict=False)[0]
        torch.testing.assert_close(unfinished.estimate(scheduler, before, now), picture, atol=1e-5, rtol=0)
        before = now


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("klein", {"negative_prompt": "fog", "guidance": 2.0}, "guidance"),
    ("klein", {"guidance": 4.0}, "guidance"),
    ("sdxl", {"guidance": 0.5}, "guidance"),
    ("flux", {"guidance": 0.5, "negative_prompt": "fog"}, "guidance"),
    ("sdxl", {"prompt": "word " * 80}, "prompt"),
    ("flux", {"prompt": "word " * 600}, "prompt"),
    ("sdxl", {"adapter": "ink"}, "lora"),
]


@pytest.mark.parametrize(("family", "given", "param"), REFUSED)
def test_what_would_have_no_effect_is_refused(
    family: str, given: dict[str, Any], param: str, request: pytest.FixtureRequest
) -> None:
    pipeline: WholePipeline = request.getfixturevalue(family)
    with pytest.raises(InvalidRequest) as refused:
        pipeline.check(asked(1, **given))
    assert refused.value.param == param


def test_what_has_an_effect_moves_the_picture(flux: WholePipeline, sdxl: WholePipeline) -> None:
    for pipeline in (flux, sdxl):
        plain, guided = drawn(pipeline, asked(1))[0], drawn(pipeline, asked(1, guidance=4.0))[0]
        negative = drawn(pipeline, asked(1, guidance=4.0, negative_prompt="fog"))[0]
        assert len({plain, guided, negative}) == 3


def test_a_negative_prompt_is_not_shared_with_who_has_none(sdxl: WholePipeline) -> None:
    together = Driven(sdxl)
    pair = [asked(1, guidance=3.0), asked(2, guidance=3.0, negative_prompt="fog")]
    ids = [together.submit(one) for one in pair]
    together.finish()
    assert together.runs == [1, 1]
    assert [together.rgb(id) for id in ids] == [drawn(sdxl, one)[0] for one in pair]


def test_a_pipeline_that_cannot_be_driven_is_refused() -> None:
    class Speech:
        def __call__(self, prompt: str) -> None: ...

    with pytest.raises(Unfit, match="callback_on_step_end, height, width"):
        WholePipeline(Speech(), "speech")
    assert issubclass(CheckpointError, ValueError)


async def test_edits_over_http_on_every_family(
    sdxl: WholePipeline, flux: WholePipeline, klein: WholePipeline, tmp_path: Path
) -> None:
    loads: dict[str, Load] = {p.model: lambda p=p: p for p in (sdxl, flux, klein)}  # type: ignore[misc]
    at = create_app(settings(tmp_path, image_model=tmp_path / "tiny-sdxl"), loads)
    async with serving(at) as port:
        await ready(port)
        async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="any", max_retries=0) as client:
            for model in loads:
                photo: Any = ("a.png", gradient(70, 64))
                stream = await client.images.edit(
                    image=photo, prompt="fog", model=model, stream=True, partial_images=1, extra_body={"steps": 4}
                )
                events = [event async for event in stream]
                assert [event.type for event in events] == ["image_edit.partial_image", "image_edit.completed"]
                assert {picture(event.b64_json).size for event in events} == {(64, 64)}
            several = [("a.png", gradient(70, 64)), ("b.png", gradient(64, 96))]
            answer = await client.images.edit(image=several, prompt="fog", model="tiny-klein")
            assert answer.usage is not None
            assert answer.usage.input_tokens_details.image_tokens == 16 + 24
        two: list[tuple[str, str | bytes]] = [("prompt", "x"), *[("image[]", gradient(64, 64))] * 2]
        refused = await post_form(port, [*two, ("model", "tiny-sdxl")])
        assert (refused.status, refused.error["param"]) == (400, "image")
        assert "1 of the 2" in refused.error["message"]
        for field, param in ((("mask", gradient(64, 64, mask_from=3)), "mask"), (("strength", "0.5"), "strength")):
            refused = await post_form(port, [*two, ("model", "tiny-klein"), field])
            assert (refused.status, refused.error["param"]) == (400, param)
