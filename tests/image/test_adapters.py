"""LoRA by request: each image is drawn with its own, as the stock pipeline would."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel, ZImagePipeline
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file

from core.errors import InvalidRequest, SoundstageError
from image.app import create_app
from image.events import Failed
from image.messages import AdapterChange
from image.pipelines import tuning
from image.pipelines.adapters import Adapters
from image.pipelines.whole import WholePipeline
from image.pipelines.zimage import ZImage
from image.request import ImageRequest
from tests.fakes.serving import serving
from tests.image import driving_whole
from tests.image.asking import GENERATIONS, Headers, get, post, ready, settings
from tests.image.doubles import Transparent
from tests.image.driving import Driven
from training.untrained import MODEL

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning"),  # several on purpose
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # diffusers' own, with numpy 2
]

ADAPTERS = "/v1/images/adapters"


@pytest.fixture(scope="module")
def folder(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two adapters with random weights."""
    folder = tmp_path_factory.mktemp("adapters")
    for seed, name in enumerate(("ink", "chalk")):
        transformer = _stock(checkpoint).transformer
        torch.manual_seed(seed)
        transformer.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_k"], init_lora_weights=False))
        layers = get_peft_model_state_dict(transformer)
        ZImagePipeline.save_lora_weights(folder, layers, weight_name=f"{name}.safetensors")
    return folder


def _stock(checkpoint: Path) -> ZImagePipeline:
    stock = ZImagePipeline.from_pretrained(checkpoint, dtype=torch.float32, local_files_only=True)
    stock.set_progress_bar_config(disable=True)
    return stock


def asked(adapter: str | None) -> ImageRequest:
    return ImageRequest("a boat", 64, 64, 2, seed=1, adapter=adapter)


def test_each_image_has_its_own_adapter(checkpoint: Path, folder: Path) -> None:
    own = ZImage.load(checkpoint, MODEL, "cpu", torch.float32)
    # One makes room for the other at every step.
    own.adapters = Adapters(own.stock, folder, most=1, most_bytes=1 << 20)
    driven = Driven(Transparent(own))
    ids = {name: driven.submit(asked(name)) for name in (None, "ink", "chalk")}
    missing = driven.submit(asked("none"))
    driven.finish()
    for name, id in ids.items():
        expected = _reference(checkpoint, folder, name)
        torch.testing.assert_close(driven.latents(id, expected), expected, atol=1e-5, rtol=0)
    last = driven.events[missing][-1]
    assert isinstance(last, Failed)
    assert isinstance(last.error, InvalidRequest)
    assert last.error.param == "lora"


def _reference(checkpoint: Path, folder: Path, adapter: str | None) -> torch.Tensor:
    stock = _stock(checkpoint)
    if adapter:
        stock.load_lora_weights(folder, weight_name=f"{adapter}.safetensors", local_files_only=True)
    latents: torch.Tensor = stock(
        "a boat",
        height=64,
        width=64,
        num_inference_steps=2,
        guidance_scale=0,
        generator=torch.Generator("cpu").manual_seed(1),
        output_type="latent",
    ).images[0]
    return latents


@pytest.fixture(scope="module")
def whole_folder(sdxl: WholePipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two adapters of the SDXL's UNet, one for nothing it has, and a damaged one."""
    folder = tmp_path_factory.mktemp("whole-adapters")
    for seed, name in enumerate(("ink", "chalk")):
        unet = UNet2DConditionModel.from_config(sdxl.stock.unet.config)
        torch.manual_seed(seed)
        unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_k"], init_lora_weights=False))
        layers = get_peft_model_state_dict(unet)
        StableDiffusionXLPipeline.save_lora_weights(folder, layers, weight_name=f"{name}.safetensors")
    save_file({"unet.no_such.lora_A.weight": torch.zeros(2, 16)}, folder / "foreign.safetensors")
    (folder / "damaged.safetensors").write_bytes(b"no weights")
    return folder


@pytest.fixture
def lent(sdxl: WholePipeline, whole_folder: Path) -> Iterator[WholePipeline]:
    """The shared SDXL with adapters; without them again afterwards."""
    plain, size = sdxl.adapters, (whole_folder / "ink.safetensors").stat().st_size
    sdxl.adapters = Adapters(sdxl.stock, whole_folder, most=4, most_bytes=size + size // 2)
    yield sdxl
    for name in sdxl.adapters.loaded:
        sdxl.adapters.unload(name)
    sdxl.adapters = plain


def test_an_adapter_on_eight_bit_weights(checkpoint: Path, folder: Path) -> None:
    """The adapter itself stays wide: in 8 bits it could not compute."""
    eight = ZImage.load(checkpoint, MODEL, "cpu", torch.float32)
    tuning.in_8_bits(eight.transformer)
    eight.adapters = Adapters(eight.stock, folder, most=1, most_bytes=1 << 30)
    driven, expected, drawn = Driven(Transparent(eight)), _reference(checkpoint, folder, "ink"), []
    for adapter in (None, "ink", None):
        id = driven.submit(asked(adapter))
        driven.finish()
        drawn.append(driven.latents(id, expected))
    assert torch.equal(drawn[0], drawn[2])
    assert (drawn[1] - expected).abs().mean() < (drawn[0] - expected).abs().mean() / 2


def test_whole_requests_have_their_own_adapter_too(lent: WholePipeline) -> None:
    before = _drawn(lent, None)
    pictures: dict[str | None, bytes] = {name: _drawn(lent, name) for name in ("ink", "chalk")}
    assert lent.adapters.loaded == ("chalk",)  # both together would be too many bytes
    assert len({before, *pictures.values()}) == 3
    assert (_drawn(lent, "ink"), _drawn(lent, None)) == (pictures["ink"], before)
    mixed = driving_whole.Driven(lent)
    ids = {name: mixed.submit(driving_whole.asked(1, adapter=name)) for name in (None, "ink", "chalk")}
    mixed.finish()
    assert {name: mixed.rgb(id) for name, id in ids.items()} == pictures | {None: before}


def _drawn(pipeline: WholePipeline, adapter: str | None) -> bytes:
    driven = driving_whole.Driven(pipeline)
    id = driven.submit(driving_whole.asked(1, adapter=adapter))
    driven.finish()
    return driven.rgb(id)


@pytest.mark.parametrize(("name", "code"), [("foreign", "lora_unusable"), ("damaged", "lora_unusable")])
@pytest.mark.filterwarnings("ignore::UserWarning")  # of the library, about the file
def test_a_file_that_does_not_fit_fails_who_asked_and_leaves_nothing(lent: WholePipeline, name: str, code: str) -> None:
    before = _drawn(lent, None)
    driven = driving_whole.Driven(lent)
    bad, good = (driven.submit(driving_whole.asked(1, adapter=a)) for a in (name, "ink"))
    driven.finish()
    last = driven.events[bad][-1]
    assert isinstance(last, Failed)
    assert (last.error.status, last.error.code, last.error.param) == (400, code, "lora")
    assert driven.rgb(good) == _drawn(lent, "ink") != before
    assert _drawn(lent, None) == before
    assert name not in lent.adapters.loaded


def test_larger_than_all_may_be_is_refused(lent: WholePipeline, whole_folder: Path) -> None:
    lent.adapters = Adapters(lent.stock, whole_folder, most=4, most_bytes=100)
    with pytest.raises(InvalidRequest) as refused:
        lent.adapters.check("ink")
    assert refused.value.code == "lora_too_large"


async def test_adapters_are_listed_loaded_and_unloaded_over_http(
    lent: WholePipeline, whole_folder: Path, tmp_path: Path
) -> None:
    key = [(b"authorization", b"Bearer k1")]
    at = settings(tmp_path, image_model=tmp_path / "tiny-sdxl", image_lora_dir=whole_folder, wan_worker_api_key="k1")
    async with serving(create_app(at, {"tiny-sdxl": lambda: lent})) as port:
        await ready(port)
        assert (await get(port, ADAPTERS)).status == 401
        assert (await post(port, ADAPTERS + "/load", {"lora": "ink"})).status == 401
        assert await _listed(port, key) == {"chalk": [], "damaged": [], "foreign": [], "ink": []}
        assert (await post(port, ADAPTERS + "/load", {"lora": "ink"}, key)).status == 200
        assert (await _listed(port, key))["ink"] == ["tiny-sdxl"]
        drawn = await post(port, GENERATIONS, {"prompt": "a boat", "seed": 1, "lora": "chalk"}, key)
        assert drawn.status == 200
        assert await _listed(port, key) == {"chalk": ["tiny-sdxl"], "damaged": [], "foreign": [], "ink": []}
        assert (await post(port, ADAPTERS + "/unload", {"lora": "chalk"}, key)).status == 200
        again = await post(port, ADAPTERS + "/unload", {"lora": "chalk"}, key)
        assert (again.status, again.error["code"]) == (404, "lora_not_loaded")
        for body, param in (
            ({"lora": "../secret"}, "lora"),
            ({"lora": "/etc/passwd"}, "lora"),
            ({"lora": "none"}, "lora"),
            ({"lora": "ink", "path": "/tmp"}, "path"),
        ):
            refused = await post(port, ADAPTERS + "/load", body, key)
            assert (refused.status, refused.error["param"]) == (400, param)


async def _listed(port: int, key: Headers) -> dict[str, list[str]]:
    return {one["lora"]: one["loaded"] for one in (await get(port, ADAPTERS, key)).json()["data"]}


def test_an_adapter_in_use_stays(lent: WholePipeline) -> None:
    told: list[SoundstageError | None] = []
    driven = driving_whole.Driven(lent)
    ids = [driven.submit(driving_whole.asked(seed, adapter="ink", steps=2 + seed)) for seed in (1, 2)]
    driven.after_step = {1: AdapterChange("ink", load=False, done=told.append)}
    driven.finish()
    assert [error and error.code for error in told] == ["lora_in_use"]
    assert all(driven.rgb(id) for id in ids)


def test_without_a_folder_there_is_none(pipeline: ZImage) -> None:
    with pytest.raises(InvalidRequest):
        pipeline.adapters.check("ink")
