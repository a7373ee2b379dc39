"""Three ways to show an unfinished image: through the VAE, through a tiny decoder, or by one matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

Preview = Callable[[torch.Tensor], torch.Tensor]
"""(B, C, H, W) latents to (B, 3, 8 H, 8 W) levels from -1 to 1."""

_SIDE = 128  # pixels of a picture that the projection is fitted on
_PICTURES = 6


def through_vae(vae: Any) -> Preview:
    """As exact as a finished image, and as dear."""

    def show(latents: torch.Tensor) -> torch.Tensor:
        factor, shift = _normalisation(vae)
        with _wide_enough(vae):
            image: torch.Tensor = vae.decode((latents / factor + shift).to(vae.dtype), return_dict=False)[0]
        return image.float()

    return show


def through_tiny_decoder(folder: Path, device: torch.device, dtype: torch.dtype) -> Preview:
    """A distilled decoder (diffusers' AutoencoderTiny) that was trained for this latent space."""
    from diffusers import AutoencoderTiny

    tiny = AutoencoderTiny.from_pretrained(folder, dtype=dtype, local_files_only=True).to(device).eval()

    def show(latents: torch.Tensor) -> torch.Tensor:
        image: torch.Tensor = tiny.decode(latents.to(dtype), return_dict=False)[0]
        return image.float()

    return show


def through_matrix(vae: Any, scale: int) -> Preview:
    """A linear projection to RGB, fitted once to what this very VAE makes of smooth colours. One matrix product an
    image: no detail below a latent pixel (`scale` image pixels), right colours and shapes."""
    fitted: list[torch.Tensor] = []

    def show(latents: torch.Tensor) -> torch.Tensor:
        if not fitted:
            fitted.append(_fit(vae, scale).to(latents.device))
        small = torch.einsum("kc,bkhw->bchw", fitted[0][:-1], latents.float()) + fitted[0][-1][:, None, None]
        return functional.interpolate(small, scale_factor=scale, mode="bilinear")

    return show


def _fit(vae: Any, scale: int) -> torch.Tensor:
    """(C + 1, 3): least squares from latents and a constant to the mean colour under each latent pixel."""
    generator = torch.Generator("cpu").manual_seed(0)
    coarse = torch.rand(_PICTURES, 3, 5, 5, generator=generator) * 2 - 1
    pictures = functional.interpolate(coarse, size=(_SIDE, _SIDE), mode="bicubic").clamp(-1, 1)
    with _wide_enough(vae):
        encoded = vae.encode(pictures.to(vae.device, vae.dtype)).latent_dist.mode().float().cpu()
    factor, shift = _normalisation(vae)
    latents = (encoded - shift) * factor
    known = latents.permute(0, 2, 3, 1).reshape(-1, latents.shape[1])
    known = torch.cat([known, torch.ones(len(known), 1)], dim=1)
    wanted = functional.avg_pool2d(pictures, scale).permute(0, 2, 3, 1).reshape(-1, 3)
    solution: torch.Tensor = torch.linalg.lstsq(known, wanted, driver="gelsd").solution
    return solution


def _normalisation(vae: Any) -> tuple[float, float]:
    """Factor and shift between the VAE's latents and the denoiser's; families that have their own are (1, 0) here."""
    config = vae.config
    return getattr(config, "scaling_factor", None) or 1.0, getattr(config, "shift_factor", None) or 0.0


@contextmanager
def _wide_enough(vae: Any) -> Iterator[None]:
    """Some VAEs overflow in float16, and say so."""
    narrow = vae.dtype == torch.float16 and getattr(vae.config, "force_upcast", False)
    if narrow:
        vae.to(torch.float32)
    try:
        yield
    finally:
        if narrow:
            vae.to(torch.float16)
