"""From a checkpoint folder to a pipeline that the engine can step."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Literal

from image.pipelines.base import StepPipeline

log = logging.getLogger(__name__)

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


class CheckpointError(ValueError):
    """The folder cannot be served; the message says why."""


def load(folder: Path, model: str, *, device: str, dtype: Dtype, threads: int) -> StepPipeline:
    """Read the weights. Runs on the engine's thread, and turns gradients off for it.

    `device` may be "auto"; `dtype` "auto" is bfloat16 on an accelerator and float32 on a CPU;
    `threads` 0 leaves the CPU thread count as it is.
    """
    _check(folder)
    import torch

    from image.pipelines.zimage import ZImage

    quiet()
    torch.set_grad_enabled(False)
    if threads:
        torch.set_num_threads(threads)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if dtype == "auto":
        dtype = "float32" if device == "cpu" else "bfloat16"
    started = time.perf_counter()
    pipeline = ZImage.load(folder, model, device, getattr(torch, dtype))
    seconds = round(time.perf_counter() - started, 3)
    log.info("image model loaded", extra={"model": model, "device": device, "dtype": dtype, "seconds": seconds})
    return pipeline


def quiet() -> None:
    """No progress bars in the log."""
    import diffusers
    import transformers

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()


def _check(folder: Path) -> None:
    index = folder / "model_index.json"
    if not index.is_file():
        raise CheckpointError(f"{folder} is not a diffusers checkpoint: it has no model_index.json")
    kind = json.loads(index.read_text())["_class_name"]
    if kind != "ZImagePipeline":
        raise CheckpointError(f"{folder} holds a {kind}; this worker runs ZImagePipeline checkpoints")
