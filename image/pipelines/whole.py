"""Any text-to-image pipeline of diffusers, driven a request at a time through its own loop.

Its steps cannot be mixed with others'; equal requests share a run, and its callback tells every step.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline

from core.errors import InvalidRequest
from image.pipelines import memory
from image.pipelines.base import Pixels
from image.pipelines.pixels import as_levels, as_pixels
from image.request import ImageRequest

OnStep = Callable[[int, Callable[[], list[Pixels]]], None]
"""Told after every step: how many were taken, and a way to look at the images as they are."""


class WholePipeline:
    """The engine asks for runs; each is one call of the stock pipeline."""

    def __init__(self, stock: Any, model: str) -> None:
        self.model = model
        self._stock = stock
        self._takes = frozenset(inspect.signature(stock.__call__).parameters)
        # Packed latents are the pipeline's own affair: no picture can be made of them here.
        self._shows = hasattr(stock, "vae") and not hasattr(stock, "_unpack_latents")
        stock.set_progress_bar_config(disable=True)

    @classmethod
    def load(cls, folder: Path, model: str, device: str, dtype: torch.dtype) -> WholePipeline:
        """Read a checkpoint folder in diffusers' layout, whatever its class."""
        stock = DiffusionPipeline.from_pretrained(folder, dtype=dtype, local_files_only=True)
        return cls(stock.to(device), model)

    def check(self, request: ImageRequest) -> None:
        """Raises InvalidRequest naming what this model cannot do."""
        refused = {
            "image": request.source is not None,
            "negative_prompt": bool(request.negative_prompt) and "negative_prompt" not in self._takes,
            "guidance": request.guidance > 0 and "guidance_scale" not in self._takes,
            "partial_images": request.partial_images > 0 and not self._shows,
            "size": not {"width", "height"} <= self._takes,
            "lora": request.adapter is not None,
        }
        for param, wrong in refused.items():
            if wrong:
                raise InvalidRequest(f"{self.model} does not take {param}.", param=param, code="unsupported_parameter")

    def text_tokens(self, request: ImageRequest) -> int:
        """Of the prompt and the negative prompt, by the first tokenizer."""
        tokenizer = getattr(self._stock, "tokenizer", None)
        texts = [request.prompt, *([request.negative_prompt] if request.negative_prompt else [])]
        return 0 if tokenizer is None else sum(len(tokenizer(text)["input_ids"]) for text in texts)

    def run(self, requests: Sequence[ImageRequest], on_step: OnStep) -> list[Pixels]:
        """Equal requests but for prompts and seeds. Raises NotFinite, and what `on_step` raises."""

        def after(_: Any, step: int, __: Any, state: dict[str, Any]) -> dict[str, Any]:
            on_step(step + 1, lambda: self._look(state["latents"]))
            return {}

        images = self._stock(**self._arguments(requests), callback_on_step_end=after, output_type="pt").images
        return as_pixels(as_levels(torch.as_tensor(images).float() * 2 - 1))

    def release_memory(self) -> None:
        memory.release(self._stock.device)

    def _arguments(self, requests: Sequence[ImageRequest]) -> dict[str, Any]:
        first = requests[0]
        given = {
            "prompt": [r.prompt for r in requests],
            "width": first.width,
            "height": first.height,
            "num_inference_steps": first.steps,
            "generator": [torch.Generator("cpu").manual_seed(r.seed) for r in requests],
        }
        if "guidance_scale" in self._takes:
            given["guidance_scale"] = first.guidance
        if "negative_prompt" in self._takes and any(r.negative_prompt for r in requests):
            given["negative_prompt"] = [r.negative_prompt for r in requests]
        return given

    def _look(self, latents: torch.Tensor) -> list[Pixels]:
        vae = self._stock.vae
        scaled = latents.to(vae.dtype) / vae.config.scaling_factor + (getattr(vae.config, "shift_factor", None) or 0)
        return as_pixels(as_levels(vae.decode(scaled, return_dict=False)[0].float()))
