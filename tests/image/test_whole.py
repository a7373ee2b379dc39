"""A pipeline that runs whole requests: a tiny SDXL with random weights, beside the stepped model."""

from pathlib import Path
from typing import Any

import pytest
import torch

from image.building import Load
from image.device import Device
from image.events import LAST, Cancelled, Event, Failed, Finished, Partial, Progress
from image.mail import Cancel, Mail, News, Stop, Submit
from image.pipelines.load import load
from image.pipelines.whole import OnStep, WholePipeline
from image.pipelines.zimage import ZImage
from image.request import ImageRequest, RequestId, Source
from image.settings import ImageSettings
from image.tiny_untrained import MODEL
from image.whole_engine import WholeEngine
from tests.fakes.serving import serving
from tests.image.asking import GENERATIONS, get, gradient, picture, post, post_form, ready, settings

# diffusers' own, with numpy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Path:
    return tiny_sdxl(tmp_path_factory.mktemp("models") / "tiny-sdxl", checkpoint)


@pytest.fixture(scope="module")
def sdxl(folder: Path) -> WholePipeline:
    loaded = load(folder, "tiny-sdxl", ImageSettings.load())
    assert isinstance(loaded, WholePipeline)
    return loaded


def tiny_sdxl(folder: Path, zimage: Path) -> Path:
    """In diffusers' layout. It borrows the tiny Z-Image's tokenizer; the weights depend on a seed."""
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(zimage / "tokenizer", model_max_length=77)
    text: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "projection_dim": 16,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": 0,
    }
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 1),
        projection_class_embeddings_input_dim=6 * 8 + 16,
        cross_attention_dim=32,
        norm_num_groups=4,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=4,
        layers_per_block=1,
    )
    StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(CLIPTextConfig(**text)),
        text_encoder_2=CLIPTextModelWithProjection(CLIPTextConfig(**text)),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=EulerDiscreteScheduler(),
    ).save_pretrained(folder)
    return folder


class Driven:
    """The engine on this thread; `before` is asked before every run of the stock pipeline's next step."""

    def __init__(self, pipeline: WholePipeline, batch: int = 4) -> None:
        self.mail: Mail = Mail()
        self.events: dict[RequestId, list[Event]] = {}
        self.runs: list[int] = []
        self.after_step: dict[int, Cancel | Stop] = {}
        self.engine = WholeEngine(_Watched(pipeline, self), self.mail, self._hear, Device(), batch)  # type: ignore[arg-type]

    def submit(self, request: ImageRequest) -> RequestId:
        id = RequestId(len(self.events))
        self.events[id] = []
        self.mail.put(Submit(id, request))
        return id

    def finish(self) -> None:
        while any(not told or not isinstance(told[-1], LAST) for told in self.events.values()):
            self.engine.run_once()

    def rgb(self, id: RequestId) -> bytes:
        last = self.events[id][-1]
        assert isinstance(last, Finished), last
        return last.pixels.rgb

    def _hear(self, news: News) -> None:
        for id, event in news.events:
            self.events[id].append(event)


class _Watched:
    def __init__(self, inner: WholePipeline, driven: Driven) -> None:
        self._inner, self._driven = inner, driven

    def run(self, requests: list[ImageRequest], on_step: OnStep) -> Any:
        self._driven.runs.append(len(requests))

        def told(taken: int, look: Any) -> None:
            if command := self._driven.after_step.pop(taken, None):
                self._driven.mail.put(command)
            on_step(taken, look)

        return self._inner.run(requests, told)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def asked(seed: int, **given: Any) -> ImageRequest:
    whole: dict[str, Any] = {"prompt": "a boat", "width": 64, "height": 64, "steps": 3, "seed": seed} | given
    return ImageRequest(**whole)


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
    class Failing(_Watched):
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
    [({"source": Source(bytes(64 * 64 * 3), 0.5)}, "image"), ({"adapter": "style"}, "lora")],
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
        form: list[tuple[str, str | bytes]] = [("prompt", "x"), ("image", gradient(64, 64)), ("model", "tiny-sdxl")]
        refused = await post_form(port, form)
        assert (refused.status, refused.error["param"]) == (400, "image")
