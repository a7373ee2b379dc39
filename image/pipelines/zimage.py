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
from diffusers.pipelines.z_image.pipeline_z_image import calculate_shift, get_default_z_image_sigmas

from core.errors import InvalidRequest
from image.pipelines import memory, previews
from image.pipelines.adapters import Adapters
from image.pipelines.base import Abilities, MaskedSource, Row, Schedule, Start, Tokens
from image.pipelines.pixels import as_levels, as_pixels
from image.pipelines.previews import Preview
from image.request import ImageRequest, Pixels, Source

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MAX_TEXT_TOKENS = 512  # what the model was trained with, template included
TOKEN_MULTIPLE = 32  # the transformer pads image and text each to this
PATCH = 2  # latent pixels to a token's side


class ZImage:
    """Implements StepPipeline."""

    def __init__(self, stock: ZImagePipeline, model: str, canvas: int | None = None) -> None:
        """Takes the parts of `stock`; the stock pipeline's own loop is never run."""
        self.model = model
        self.canvas = canvas
        self.stock = stock
        self._tokenizer: PreTrainedTokenizerBase = stock.tokenizer
        self.text_encoder: Any = stock.text_encoder
        self.transformer: Any = stock.transformer
        self.vae: Any = stock.vae
        self._sigma_maker: Any = stock.scheduler
        if self._sigma_maker.config.stochastic_sampling or self._sigma_maker.config.invert_sigmas:
            raise ValueError("only deterministic flow matching from sigma 1 to 0 can be stepped")
        self._device: torch.device = self.transformer.device
        self._pixels_a_patch: int = stock.vae_scale_factor * PATCH
        self.adapters = Adapters(stock)
        self.abilities = Abilities(pictures=1, masks=True, strength=True)
        self._decoder = previews.through_vae(stock.vae)
        self._preview = previews.through_matrix(stock.vae, stock.vae_scale_factor)
        self.max_side: int = min(self.transformer.config.axes_lens[1:]) * self._pixels_a_patch

    @classmethod
    def load(
        cls,
        folder: Path,
        model: str,
        device: str,
        dtype: torch.dtype,
        text_encoder: Any | None = None,
        canvas: int | None = None,
    ) -> ZImage:
        """Read a checkpoint folder in diffusers' layout. `text_encoder`: one that is on the device already."""
        given = {} if text_encoder is None else {"text_encoder": text_encoder}
        stock = ZImagePipeline.from_pretrained(
            folder, dtype=dtype, local_files_only=True, low_cpu_mem_usage=True, **given
        )
        stock.to(device)
        for part in (stock.text_encoder, stock.transformer, stock.vae):
            part.requires_grad_(False).eval()
        return cls(stock, model, canvas)

    def show_with(self, preview: Preview) -> None:
        """How unfinished images are shown."""
        self._preview = preview

    @property
    def vae_scale(self) -> int:
        """Image pixels to a latent pixel's side."""
        return self._pixels_a_patch // PATCH

    @property
    def fingerprint(self) -> str:
        return f"{self.model} {memory.name(self._device)} {self.transformer.dtype} torch {torch.__version__}"

    def tokenize(self, prompt: str) -> Tokens:
        text = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True, enable_thinking=True
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
        hidden = self.text_encoder(
            input_ids=ids.to(self._device), attention_mask=mask.to(self._device), output_hidden_states=True
        ).hidden_states[-2]
        return [row[: len(p.ids)].clone() for row, p in zip(hidden, prompts, strict=True)]

    def start(self, request: ImageRequest, schedule: Schedule) -> Start:
        across, down = self._patches(request)
        shape = (1, self.transformer.in_channels, down * PATCH, across * PATCH)
        generator = torch.Generator("cpu").manual_seed(request.seed)
        # As the stock pipelines draw: first for the source's posterior, then for the noise.
        source = self._encode_source(request, request.source, generator) if request.source else None
        noise = torch.randn(shape, generator=generator, dtype=torch.float32)[0].to(self._device)
        if source is None or request.source is None:
            return Start(noise)
        sigma = schedule.sigmas[0].item()
        latents = sigma * noise + (1.0 - sigma) * source
        if request.source.mask is None:
            return Start(latents)
        return Start(latents, MaskedSource(source, noise, self._anew(request, request.source.mask)))

    def _encode_source(self, request: ImageRequest, source: Source, generator: torch.Generator) -> torch.Tensor:
        raw = torch.frombuffer(bytearray(source.pictures[0].rgb), dtype=torch.uint8)
        image = raw.view(request.height, request.width, 3).permute(2, 0, 1).unsqueeze(0).float() / 255.0
        posterior = self.vae.encode((2.0 * image - 1.0).to(self._device, self.vae.dtype)).latent_dist
        config = self.vae.config
        latents: torch.Tensor = (posterior.sample(generator)[0].float() - config.shift_factor) * config.scaling_factor
        return latents

    def _anew(self, request: ImageRequest, mask: bytes) -> torch.Tensor:
        across, down = self._patches(request)
        levels = torch.frombuffer(bytearray(mask), dtype=torch.uint8).view(1, 1, request.height, request.width)
        small = torch.nn.functional.interpolate(levels.float(), size=(down * PATCH, across * PATCH), mode="nearest")
        return (small[0] >= 128).float().to(self._device)

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
        skipped = request.skipped_steps
        return Schedule(self._sigma_maker.sigmas[skipped:].clone(), timesteps[skipped:])

    def velocity(self, rows: Sequence[Row]) -> list[torch.Tensor]:
        dtype = self.transformer.dtype
        outputs = self.transformer(
            [row.latents.to(dtype).unsqueeze(1) for row in rows],  # (C, 1, H, W)
            torch.stack([row.timestep for row in rows]).to(self._device),
            [row.text for row in rows],
            return_dict=False,
        )[0]
        # The transformer predicts the negative of dx/dsigma.
        return [-output.float().squeeze(1) for output in outputs]

    def decode(self, latents: Sequence[torch.Tensor]) -> list[Pixels]:
        return as_pixels(as_levels(self._decoder(torch.stack(list(latents)))))

    def preview(self, latents: Sequence[torch.Tensor]) -> list[Pixels]:
        return as_pixels(as_levels(self._preview(torch.stack(list(latents)))))

    def state_bytes(self, request: ImageRequest, text_tokens: int) -> int:
        across, down = self._patches(request)
        copies = 2 + (3 if request.source and request.source.mask else 0)  # latents and estimate; what a mask keeps
        latents = self.transformer.in_channels * across * down * PATCH**2 * 4 * copies
        text: int = text_tokens * self.transformer.config.cap_feat_dim * self.text_encoder.dtype.itemsize
        return int(latents) + text

    def free_bytes(self) -> int:
        return memory.free(self._device)

    def reset_peak(self) -> None:
        memory.reset_peak(self._device)

    def peak_bytes(self) -> int:
        return memory.peak(self._device)

    def release_memory(self) -> None:
        memory.release(self._device)

    def _patches(self, request: ImageRequest) -> tuple[int, int]:
        """Tokens across and down."""
        return request.width // self._pixels_a_patch, request.height // self._pixels_a_patch


def _rounded(tokens: int) -> int:
    return -(-tokens // TOKEN_MULTIPLE) * TOKEN_MULTIPLE
