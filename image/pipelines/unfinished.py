"""What the latents inside a stock pipeline's loop would become: estimated, and unpacked for the VAE."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderKLFlux2, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler

Unpack = Callable[[torch.Tensor, int, int], torch.Tensor]
"""Latents as the loop has them, width and height in pixels → (B, C, H, W)."""


def unpacking(stock: Any) -> Unpack | None:
    """How this pipeline's latents are laid out; None where no picture can be made of them."""
    vae = getattr(stock, "vae", None)
    if isinstance(vae, AutoencoderKLFlux2) and hasattr(stock, "_unpatchify_latents"):
        return lambda latents, width, height: _flux2(stock, latents, width, height)
    if not isinstance(vae, AutoencoderKL):
        return None
    if not hasattr(stock, "_unpack_latents"):
        return lambda latents, width, height: latents
    return lambda latents, width, height: stock._unpack_latents(latents, height, width, stock.vae_scale_factor)


def _flux2(stock: Any, latents: torch.Tensor, width: int, height: int) -> torch.Tensor:
    """Tokens lie row by row; the VAE keeps the mean and variance that they were normalised with."""
    side = stock.vae_scale_factor * 2
    grid = latents.unflatten(1, (height // side, width // side)).permute(0, 3, 1, 2)
    norm = stock.vae.bn
    mean = norm.running_mean.view(1, -1, 1, 1).to(grid)
    deviation = torch.sqrt(norm.running_var.view(1, -1, 1, 1).to(grid) + stock.vae.config.batch_norm_eps)
    unpatched: torch.Tensor = stock._unpatchify_latents(grid * deviation + mean)
    return unpatched


def estimate(scheduler: Any, before: torch.Tensor | None, now: torch.Tensor) -> torch.Tensor:
    """The finished latents if the last step's velocity stayed as it is; where that is not known, `now`."""
    if not isinstance(scheduler, (EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler)):
        return now
    sigma, sigma_next = scheduler.sigmas[scheduler.step_index - 1], scheduler.sigmas[scheduler.step_index]
    if before is not None:
        return now - sigma_next * (now - before) / (sigma_next - sigma)
    if isinstance(scheduler, EulerDiscreteScheduler):  # noise is added on top: brought back to the picture's scale
        return now / (sigma_next**2 + 1) ** 0.5
    return now
