"""From a checkpoint folder to a pipeline that the engine can drive."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from image.pipelines.base import StepPipeline
from image.settings import ImageSettings

if TYPE_CHECKING:
    import torch

    from image.pipelines.previews import Preview
    from image.pipelines.whole import WholePipeline
    from image.pipelines.zimage import ZImage

log = logging.getLogger(__name__)

Dtype = Literal["auto", "float32", "bfloat16", "float16"]

_ROOM = 1.1  # memory to load into, for each byte of weights


class CheckpointError(ValueError):
    """The folder cannot be served; the message says why."""


def load(folder: Path, model: str, settings: ImageSettings) -> StepPipeline | WholePipeline:
    """Read the weights. Runs on the engine's thread, and turns gradients off for it.

    Z-Image is stepped; every other text-to-image pipeline runs whole. Raises CheckpointError where it cannot be
    served or does not fit beside what is loaded.
    """
    kind = _kind(folder)
    import torch

    from image.pipelines import memory
    from image.pipelines.whole import WholePipeline

    quiet()
    torch.set_grad_enabled(False)
    if settings.image_threads:
        torch.set_num_threads(settings.image_threads)
    device, dtype = _placed(settings.image_device, settings.image_dtype)
    _check_memory(folder, model, memory.free(torch.device(device)))
    started = time.perf_counter()
    if kind == "ZImagePipeline":
        pipeline: StepPipeline | WholePipeline = _zimage(folder, model, device, dtype, settings)
    else:
        pipeline = WholePipeline.load(folder, model, device, dtype)
    seconds = round(time.perf_counter() - started, 3)
    log.info("image model loaded", extra={"model": model, "device": device, "dtype": str(dtype), "seconds": seconds})
    return pipeline


def quiet() -> None:
    """No progress bars in the log."""
    import diffusers
    import transformers

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()


def _placed(device: str, dtype: Dtype) -> tuple[str, torch.dtype]:
    """ "auto": an accelerator where there is one; bfloat16 there and float32 on a CPU."""
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if dtype == "auto":
        dtype = "float32" if device == "cpu" else "bfloat16"
    named: torch.dtype = getattr(torch, dtype)
    return device, named


def _zimage(folder: Path, model: str, device: str, dtype: torch.dtype, settings: ImageSettings) -> ZImage:
    from image.pipelines import tuning
    from image.pipelines.zimage import ZImage

    encoder = None
    if settings.image_encoder_dtype == "nf4":
        encoder = tuning.encoder_in_4_bits(folder, device, dtype)
    pipeline = ZImage.load(folder, model, device, dtype, encoder)
    tuning.apply(pipeline, settings)
    if settings.image_lora_dir:
        pipeline.adapters_from(settings.image_lora_dir, settings.image_lora_max)
    pipeline.show_with(_preview(pipeline, settings, device, dtype))
    return pipeline


def _preview(pipeline: ZImage, settings: ImageSettings, device: str, dtype: torch.dtype) -> Preview:
    import torch

    from image.pipelines import previews

    if settings.image_preview_decoder:
        return previews.through_tiny_decoder(settings.image_preview_decoder, torch.device(device), dtype)
    if settings.image_preview == "vae":
        return previews.through_vae(pipeline.vae)
    return previews.through_matrix(pipeline.vae, pipeline.vae_scale)


def _check_memory(folder: Path, model: str, free: int) -> None:
    weights = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
    if weights * _ROOM > free:
        raise CheckpointError(f"{model} has {weights >> 20} MiB of weights; the device has {free >> 20} MiB free")


def _kind(folder: Path) -> str:
    """The pipeline's class, as the checkpoint names it."""
    index = folder / "model_index.json"
    if not index.is_file():
        raise CheckpointError(f"{folder} is not a diffusers checkpoint: it has no model_index.json")
    kind = str(json.loads(index.read_text())["_class_name"])
    import diffusers

    if not hasattr(diffusers, kind):
        raise CheckpointError(f"{folder} holds a {kind}, which this version of diffusers does not know")
    return kind
