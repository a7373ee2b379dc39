"""LoRA by request: each image is drawn with its own, as the stock pipeline would."""

from pathlib import Path

import pytest
import torch
from diffusers import ZImagePipeline
from peft import LoraConfig, get_peft_model_state_dict

from core.errors import InvalidRequest
from image.events import Failed
from image.pipelines.adapters import Adapters
from image.pipelines.zimage import ZImage
from image.request import ImageRequest
from image.tiny_untrained import MODEL
from tests.image.doubles import Transparent
from tests.image.driving import Driven

pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning")  # several on purpose


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
    own.adapters = Adapters(
        own.stock, folder, most=1, most_bytes=1 << 20
    )  # so that one makes room for the other at every step
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


def test_without_a_folder_there_is_none(pipeline: ZImage) -> None:
    with pytest.raises(InvalidRequest):
        pipeline.adapters.check("ink")
