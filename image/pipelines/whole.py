"""Any text-to-image pipeline of diffusers, driven a request at a time through its own loop.

Its steps cannot be mixed with others'; equal requests share a run, and its callback tells every step.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoPipelineForImage2Image,
    AutoPipelineForInpainting,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
)
from PIL import Image

from core.errors import InvalidRequest
from image.pipelines import memory
from image.pipelines.adapters import Adapters
from image.pipelines.base import Abilities
from image.pipelines.guidance import Guidance
from image.pipelines.pixels import as_levels, as_pixels
from image.pipelines.previews import Preview, through_vae
from image.pipelines.unfinished import estimate, unpacking
from image.request import ImageRequest, Pixels, Source

OnStep = Callable[[int, Callable[[], list[Pixels]]], None]
"""Told after every step: how many were taken, and a way to look at the images as they are."""

MAX_PICTURES = 16
_SEVERAL = frozenset({"Flux2KleinPipeline", "Flux2Pipeline", "QwenImageEditPlusPipeline"})  # look at many pictures
_TEMPLATE_TOKENS = 32  # room for what a chat template adds to a prompt


class Unfit(ValueError):
    """A pipeline that cannot be driven here; the message says why."""


class WholePipeline:
    """The engine asks for runs; each is one call of the stock pipeline, or of its sibling for edits."""

    def __init__(self, stock: Any, model: str) -> None:
        """Raises Unfit."""
        self.model = model
        self.adapters = Adapters(stock)
        self.stock = stock
        self._takes = _parameters(stock)
        if lacking := {"prompt", "width", "height", "callback_on_step_end"} - self._takes:
            raise Unfit(f"{type(stock).__name__} is not driven here: it takes no {', '.join(sorted(lacking))}")
        self._redraw = _sibling(AutoPipelineForImage2Image, stock)
        self._inpaint = _sibling(AutoPipelineForInpainting, stock)
        self._guidance = Guidance(stock, self._takes)
        self._unpack = unpacking(stock)
        self._show: Preview | None = through_vae(stock.vae) if self._unpack else None
        self.abilities = self._abilities()
        for one in (stock, self._redraw, self._inpaint):
            if one is not None:
                one.set_progress_bar_config(disable=True)

    @classmethod
    def load(cls, folder: Path, model: str, device: str, dtype: torch.dtype) -> WholePipeline:
        """Read a checkpoint folder in diffusers' layout, whatever its class. Raises Unfit."""
        stock = DiffusionPipeline.from_pretrained(folder, dtype=dtype, local_files_only=True)
        return cls(stock.to(device), model)

    @property
    def vae(self) -> Any | None:
        """What makes pictures of latents, where previews can be shown."""
        return self.stock.vae if self._unpack else None

    @property
    def vae_scale(self) -> int:
        """Image pixels to a latent pixel's side."""
        return int(self.stock.vae_scale_factor)

    def show_with(self, preview: Preview) -> None:
        """How unfinished images are shown."""
        self._show = preview

    def check(self, request: ImageRequest) -> None:
        """Raises InvalidRequest naming what this model cannot do."""
        if request.partial_images and self._show is None:
            raise self._refusal("partial_images", "partial_images")
        self._guidance.check(request)
        self.adapters.check(request.adapter)
        limit, tokens = self._prompt_limit(), self._count(request.prompt)
        if limit is not None and tokens > limit:
            message = f"The prompt takes {tokens} tokens; the model reads {limit}."
            raise InvalidRequest(message, param="prompt", code="prompt_too_long")

    def text_tokens(self, request: ImageRequest) -> int:
        """Of the prompt and the negative prompt."""
        return sum(self._count(text) for text in (request.prompt, request.negative_prompt) if text)

    def run(self, requests: Sequence[ImageRequest], on_step: OnStep) -> list[Pixels]:
        """Requests that differ in prompts and seeds only. Raises NotFinite, and what `on_step` raises."""
        first = requests[0]
        self.adapters.use(first.adapter)
        stock = self._for(first.source)
        before: list[torch.Tensor | None] = [None]

        def after(_: Any, step: int, __: Any, state: dict[str, Any]) -> dict[str, Any]:
            now = state["latents"]
            on_step(step + 1, lambda: self._look(estimate(stock.scheduler, before[0], now), first))
            before[0] = now if any(r.partial_images for r in requests) else None
            return {}

        images = stock(**self._arguments(stock, requests), callback_on_step_end=after, output_type="pt").images
        return as_pixels(as_levels(torch.as_tensor(images).float() * 2 - 1))

    def release_memory(self) -> None:
        memory.release(self.stock.device)

    def _abilities(self) -> Abilities:
        if self._redraw is None:
            return Abilities(0, masks=False, strength=False)
        several = type(self._redraw).__name__ in _SEVERAL
        strength = "strength" in _parameters(self._redraw)
        masks = strength and self._inpaint is not None
        return Abilities(MAX_PICTURES if several else 1, masks, strength)

    def _for(self, source: Source | None) -> Any:
        if source is None:
            return self.stock
        return self._inpaint if source.mask else self._redraw

    def _arguments(self, stock: Any, requests: Sequence[ImageRequest]) -> dict[str, Any]:
        first, takes = requests[0], _parameters(stock)
        given = {
            "prompt": [r.prompt for r in requests],
            "width": first.width,
            "height": first.height,
            "num_inference_steps": first.steps,
            "generator": [torch.Generator("cpu").manual_seed(r.seed) for r in requests],
            **self._guidance.arguments(requests),
        }
        if first.source:
            given |= self._sources(first, len(requests))
        return {name: value for name, value in given.items() if name in takes}

    def _sources(self, request: ImageRequest, count: int) -> dict[str, Any]:
        assert request.source is not None
        pictures = [picture.image() for picture in request.source.pictures]
        if not self.abilities.strength:
            return {"image": pictures}  # every image of the run looks at all of them
        strength = _share(self.stock, request.own_steps, request.steps)
        given: dict[str, Any] = {"image": pictures * count, "strength": strength}
        if request.source.mask:
            mask = Image.frombytes("L", (request.width, request.height), request.source.mask)
            given["mask_image"] = [mask] * count
        return given

    def _look(self, latents: torch.Tensor, request: ImageRequest) -> list[Pixels]:
        assert self._unpack is not None
        assert self._show is not None
        return as_pixels(as_levels(self._show(self._unpack(latents, request.width, request.height))))

    def _prompt_limit(self) -> int | None:
        """Tokens that the pipeline would read before it cuts the rest off."""
        long = inspect.signature(self.stock.__call__).parameters.get("max_sequence_length")
        if long is not None and isinstance(long.default, int):
            templated = getattr(self._tokenizer(), "chat_template", None)
            return long.default - (_TEMPLATE_TOKENS if templated else 0)
        return getattr(self._tokenizer(), "model_max_length", None)

    def _count(self, text: str) -> int:
        tokenizer = self._tokenizer()
        return 0 if tokenizer is None else len(tokenizer(text, truncation=False)["input_ids"])

    def _tokenizer(self) -> Any | None:
        """The one whose tokens carry the prompt: of several, the last where it reads more than the others."""
        names = ("tokenizer_3", "tokenizer_2", "tokenizer") if "max_sequence_length" in self._takes else ("tokenizer",)
        return next((t for name in names if (t := getattr(self.stock, name, None)) is not None), None)

    def _refusal(self, param: str, what: str) -> InvalidRequest:
        return InvalidRequest(f"{self.model} does not take {what}.", param=param, code="unsupported_parameter")


def _sibling(kind: Any, stock: Any) -> Any | None:
    """The same parts as another pipeline; None where diffusers has none for this family."""
    try:
        return kind.from_pipe(stock)
    except ValueError:
        return None


def _parameters(stock: Any) -> frozenset[str]:
    return frozenset(inspect.signature(stock.__call__).parameters)


def _share(stock: Any, steps: int, of: int) -> float:
    """The strength at which a family takes just so many steps: some round those taken down, some those skipped."""
    if steps == of:
        return 1.0
    skips = isinstance(stock.scheduler, FlowMatchEulerDiscreteScheduler)
    return (steps - 0.5 if skips else steps + 0.5) / of
