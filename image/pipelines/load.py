"""From a checkpoint folder to a pipeline that the engine can drive."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from image.pipelines.base import StepPipeline
from image.request import SIDE_MULTIPLE
from image.settings import ImageSettings

if TYPE_CHECKING:
    import torch

    from image.pipelines.adapters import Adapters
    from image.pipelines.previews import Preview
    from image.pipelines.whole import WholePipeline
    from image.pipelines.zimage import ZImage

log = logging.getLogger(__name__)

Dtype = Literal["auto", "float32", "bfloat16", "float16"]

_ROOM = 1.1  # memory to load into, for each byte of weights


class _OwnSettings(msgspec.Struct, forbid_unknown_fields=True):
    canvas: Annotated[int, msgspec.Meta(ge=SIDE_MULTIPLE, le=2048)]


class CheckpointError(ValueError):
    """The folder cannot be served; the message says why."""


def load(folder: Path, model: str, settings: ImageSettings) -> StepPipeline | WholePipeline:
    """Read the weights. Runs on the engine's thread, and turns gradients off for it. Z-Image is stepped; every other
    text-to-image pipeline runs whole. Raises CheckpointError where it cannot be served or does not fit beside what is
    loaded."""
    kind = _kind(folder)
    import torch

    from image.pipelines import memory

    quiet()
    torch.set_grad_enabled(False)
    if settings.image_threads:
        torch.set_num_threads(settings.image_threads)
    device, dtype = _placed(settings.image_device, settings.image_dtype)
    _check_memory(folder, model, memory.free(torch.device(device)))
    started = time.perf_counter()
    if kind == "ZImagePipeline":
        pipeline: ZImage | WholePipeline = _zimage(folder, model, device, dtype, settings)
    else:
        pipeline = _whole(folder, model, device, dtype, settings)
    if settings.image_lora_dir:
        pipeline.adapters = _adapters(pipeline, settings.image_lora_dir, settings)
    if pipeline.vae is not None:
        pipeline.show_with(_preview(pipeline.vae, pipeline.vae_scale, settings, device, dtype))
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
    if settings.image_compile and settings.image_lora_dir:
        raise CheckpointError("adapters cannot change compiled blocks: set IMAGE_COMPILE or IMAGE_LORA_DIR, not both")
    if settings.image_encoder_dtype == "nf4":
        try:
            encoder = tuning.encoder_in_4_bits(folder, device, dtype)
        except ImportError as exc:
            raise CheckpointError(f"IMAGE_ENCODER_DTYPE=nf4 needs the dependency group image-4bit: {exc}") from exc
    pipeline = ZImage.load(folder, model, device, dtype, encoder, _canvas(folder))
    tuning.apply(pipeline, settings)
    return pipeline


def _canvas(folder: Path) -> int | None:
    """What `soundstage.json` says, where there is one. Raises CheckpointError."""
    file = folder / "soundstage.json"
    if not file.is_file():
        return None
    try:
        settings = msgspec.json.decode(file.read_bytes(), type=_OwnSettings)
    except msgspec.DecodeError as exc:
        raise CheckpointError(f"{file} cannot be read: {exc}") from exc
    if settings.canvas % SIDE_MULTIPLE:
        raise CheckpointError(f"{file}: the canvas must be a multiple of {SIDE_MULTIPLE} pixels")
    return settings.canvas


def _whole(folder: Path, model: str, device: str, dtype: torch.dtype, settings: ImageSettings) -> WholePipeline:
    from image.pipelines.whole import Unfit, WholePipeline

    try:
        return WholePipeline.load(folder, model, device, dtype)
    except Unfit as exc:
        raise CheckpointError(str(exc)) from exc


def _adapters(pipeline: ZImage | WholePipeline, folder: Path, settings: ImageSettings) -> Adapters:
    from image.pipelines.adapters import Adapters

    return Adapters(pipeline.stock, folder, settings.image_lora_max, settings.image_lora_max_mb << 20)


def _preview(vae: Any, scale: int, settings: ImageSettings, device: str, dtype: torch.dtype) -> Preview:
    import torch

    from image.pipelines import previews

    if settings.image_preview_decoder:
        return previews.through_tiny_decoder(settings.image_preview_decoder, torch.device(device), dtype)
    if settings.image_preview == "vae":
        return previews.through_vae(vae)
    return previews.through_matrix(vae, scale)


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
