"""Z-Image, step by step, over the parts of a stock diffusers checkpoint.

The arithmetic is `diffusers.ZImagePipeline`'s, regrouped so that samples of different shape, prompt
length and timestep share a transformer call; the test suite compares the two.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import ZImagePipeline
from diffusers.pipelines.z_image.pipeline_z_image import (
    calculate_shift,
    get_default_z_image_sigmas,
)

from core.errors import InvalidRequest
from image.pipelines.base import Pixels, Row, Schedule, Tokens
from image.request import ImageRequest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MAX_TEXT_TOKENS = 512  # what the model was trained with, template included
TOKEN_MULTIPLE = 32  # the transformer pads image and text each to this
PATCH = 2  # latent pixels to a token's side


class ZImage:
    """Implements StepPipeline."""

    def __init__(self, stock: ZImagePipeline, model: str) -> None:
        """Takes the parts of `stock`; the stock pipeline's own loop is never run."""
        self.model = model
        self._tokenizer: PreTrainedTokenizerBase = stock.tokenizer
        self._text_encoder: Any = stock.text_encoder
        self._transformer: Any = stock.transformer
        self._vae: Any = stock.vae
        self._sigma_maker: Any = stock.scheduler
        if self._sigma_maker.config.stochastic_sampling or self._sigma_maker.config.invert_sigmas:
            raise ValueError("only deterministic flow matching from sigma 1 to 0 can be stepped")
        self._device: torch.device = self._transformer.device
        self._pixels_a_patch: int = stock.vae_scale_factor * PATCH
        self.max_side: int = min(self._transformer.config.axes_lens[1:]) * self._pixels_a_patch

    @classmethod
    def load(cls, folder: Path, model: str, device: str, dtype: torch.dtype) -> ZImage:
        """Read a checkpoint folder in diffusers' layout."""
        stock = ZImagePipeline.from_pretrained(folder, dtype=dtype, local_files_only=True, low_cpu_mem_usage=True)
        stock.to(device)
        for part in (stock.text_encoder, stock.transformer, stock.vae):
            part.requires_grad_(False).eval()
        return cls(stock, model)

    def tokenize(self, prompt: str) -> Tokens:
        text = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=True,
        )
        ids: list[int] = self._tokenizer(text)["input_ids"]
        if len(ids) > MAX_TEXT_TOKENS:
            raise InvalidRequest(
                f"The prompt takes {len(ids)} tokens; the model reads {MAX_TEXT_TOKENS}.",
                param="prompt",
                code="prompt_too_long",
            )
        return Tokens(tuple(ids), hashlib.sha256(prompt.encode()).hexdigest())

    def image_tokens(self, request: ImageRequest) -> int:
        across, down = self._patches(request)
        return across * down

    def row_tokens(self, request: ImageRequest, text_tokens: int) -> int:
        return _rounded(self.image_tokens(request)) + _rounded(text_tokens)

    def encode(self, prompts: Sequence[Tokens]) -> list[torch.Tensor]:
        # Right padding to the longest: the encoder is causal, so padding changes no real position.
        longest = max(len(p.ids) for p in prompts)
        ids = torch.zeros(len(prompts), longest, dtype=torch.long)
        mask = torch.zeros(len(prompts), longest, dtype=torch.bool)
        for i, prompt in enumerate(prompts):
            ids[i, : len(prompt.ids)] = torch.tensor(prompt.ids)
            mask[i, : len(prompt.ids)] = True
        hidden = self._text_encoder(
            input_ids=ids.to(self._device),
            attention_mask=mask.to(self._device),
            output_hidden_states=True,
        ).hidden_states[-2]
        return [row[: len(p.ids)].clone() for row, p in zip(hidden, prompts, strict=True)]

    def noise(self, request: ImageRequest) -> torch.Tensor:
        across, down = self._patches(request)
        shape = (1, self._transformer.in_channels, down * PATCH, across * PATCH)
        generator = torch.Generator("cpu").manual_seed(request.seed)
        latents = torch.randn(shape, generator=generator, dtype=torch.float32)
        return latents[0].to(self._device)

    def schedule(self, request: ImageRequest) -> Schedule:
        across, down = self._patches(request)
        config = self._sigma_maker.config
        shift = calculate_shift(
            across * down,
            config.get("base_image_seq_len", 256),
            config.get("max_image_seq_len", 4096),
            config.get("base_shift", 0.5),
            config.get("max_shift", 1.15),
        )
        # set_timesteps leaves its result on the scheduler: copied at once, only this thread asks.
        self._sigma_maker.set_timesteps(sigmas=get_default_z_image_sigmas(request.steps), mu=shift)
        timesteps = (1000 - self._sigma_maker.timesteps) / 1000
        return Schedule(self._sigma_maker.sigmas.clone(), timesteps)

    def velocity(self, rows: Sequence[Row]) -> list[torch.Tensor]:
        dtype = self._transformer.dtype
        outputs = self._transformer(
            [row.latents.to(dtype).unsqueeze(1) for row in rows],  # (C, 1, H, W)
            torch.stack([row.timestep for row in rows]).to(self._device),
            [row.text for row in rows],
            return_dict=False,
        )[0]
        # The transformer predicts the negative of dx/dsigma.
        return [-output.float().squeeze(1) for output in outputs]

    def decode(self, latents: torch.Tensor) -> Pixels:
        config = self._vae.config
        scaled = latents.to(self._vae.dtype) / config.scaling_factor + config.shift_factor
        image = self._vae.decode(scaled.unsqueeze(0), return_dict=False)[0][0].float()
        if not bool(torch.isfinite(image).all()):
            raise ValueError("the decoded image is not finite")
        levels = (image / 2 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8)
        grid = levels.permute(1, 2, 0).contiguous().cpu()  # (H, W, 3)
        return Pixels(grid.shape[1], grid.shape[0], grid.numpy().tobytes())

    def _patches(self, request: ImageRequest) -> tuple[int, int]:
        """Tokens across and down."""
        return request.width // self._pixels_a_patch, request.height // self._pixels_a_patch


def _rounded(tokens: int) -> int:
    return -(-tokens // TOKEN_MULTIPLE) * TOKEN_MULTIPLE
