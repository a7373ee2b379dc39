"""The stock pipeline, run alone: what every image of the engine is compared with."""

import io
from functools import cache
from pathlib import Path

import torch
from diffusers import ZImageImg2ImgPipeline, ZImageInpaintPipeline, ZImagePipeline
from PIL import Image

from image.request import ImageRequest


class Stock:
    def __init__(self, checkpoint: Path) -> None:
        self._pipeline = ZImagePipeline.from_pretrained(checkpoint, dtype=torch.float32, local_files_only=True)
        self._pipeline.set_progress_bar_config(disable=True)
        self.latents = cache(self._latents)

    def _latents(self, request: ImageRequest) -> torch.Tensor:
        """(C, H, W) float32, as finished."""
        latents: torch.Tensor = self._run(request, "latent")[0]
        return latents

    def rgb(self, request: ImageRequest) -> bytes:
        pixels: bytes = self._run(request, "pil")[0].tobytes()
        return pixels

    def _run(self, request: ImageRequest, output: str):  # type: ignore[no-untyped-def]
        return self._pipeline(
            request.prompt,
            height=request.height,
            width=request.width,
            num_inference_steps=request.steps,
            guidance_scale=request.guidance,
            negative_prompt=request.negative_prompt,
            generator=torch.Generator("cpu").manual_seed(request.seed),
            output_type=output,
        ).images

    def edited(self, request: ImageRequest, image: bytes, strength: float, mask: bytes | None = None) -> bytes:
        """`mask`: transparent where the picture is painted anew."""
        kind = ZImageInpaintPipeline if mask else ZImageImg2ImgPipeline
        pipeline = kind(**self._pipeline.components)
        pipeline.set_progress_bar_config(disable=True)
        given = {"mask_image": Image.open(io.BytesIO(mask)).getchannel("A").point(lambda a: 255 - a)} if mask else {}
        result = pipeline(
            request.prompt,
            image=Image.open(io.BytesIO(image)).convert("RGB"),
            strength=strength,
            height=request.height,
            width=request.width,
            num_inference_steps=request.steps,
            guidance_scale=request.guidance,
            generator=torch.Generator("cpu").manual_seed(request.seed),
            **given,
        )
        pixels: bytes = result.images[0].tobytes()
        return pixels
