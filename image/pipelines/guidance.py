"""What `guidance` and `negative_prompt` mean to a stock pipeline, and which of them would have no effect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from core.errors import InvalidRequest
from image.request import ImageRequest


class Guidance:
    """Three kinds: none; classifier-free, which begins above 1; and embedded, which the model was distilled with."""

    def __init__(self, stock: Any, takes: frozenset[str]) -> None:
        denoiser = getattr(stock, "transformer", None) or getattr(stock, "unet", None)
        config = getattr(denoiser, "config", None)
        self._embedded = bool(
            getattr(config, "guidance_embeds", False) or getattr(config, "time_cond_proj_dim", None) is not None
        )
        self._takes = takes
        self._apart = "true_cfg_scale" in takes  # classifier-free guidance beside guidance_scale
        self._distilled = bool(stock.config.get("is_distilled", False))

    def check(self, request: ImageRequest) -> None:
        """Raises InvalidRequest for what would have no effect."""
        if request.guidance and (self._distilled or not self._takes & {"guidance_scale", "true_cfg_scale"}):
            raise _refusal("guidance", "The model takes no guidance.")
        if request.negative_prompt and "negative_prompt" not in self._takes:
            raise _refusal("negative_prompt", "The model takes no negative_prompt.")
        if 0 < request.guidance <= 1 and (request.negative_prompt or not self._embedded):
            raise _refusal("guidance", "Guidance of this model begins above 1; 0 is off.", "invalid_value")

    def arguments(self, requests: Sequence[ImageRequest]) -> dict[str, Any]:
        """For requests that agree on guidance, and on whether they have a negative prompt."""
        scale, negative = requests[0].guidance, [r.negative_prompt for r in requests]
        if self._apart and (any(negative) or (scale > 1 and not self._embedded)):
            return {"true_cfg_scale": scale, "negative_prompt": negative}
        if self._embedded and not scale:
            return {}  # as it was distilled
        return {"guidance_scale": scale, **({"negative_prompt": negative} if any(negative) else {})}


def _refusal(param: str, message: str, code: str = "unsupported_parameter") -> InvalidRequest:
    return InvalidRequest(message, param=param, code=code)
