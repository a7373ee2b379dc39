"""The transformer's forward pass for a batch of one shape, several times faster on a CPU.

Stock diffusers works through lists, one sample at a time, and rotates in complex numbers. Here all
samples have the same number of image tokens and text that fits one block of 32; the test suite compares
the two. Training alone uses this: whoever loads the model runs the stock code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from diffusers.models.transformers.transformer_z_image import SEQ_MULTI_OF
from torch.nn import functional

if TYPE_CHECKING:
    from diffusers import ZImageTransformer2DModel

TEXT_TOKENS = SEQ_MULTI_OF


class Fast:
    """Shares the weights of the model that it is given. `compiled`: fuse each block's small operations."""

    def __init__(self, model: ZImageTransformer2DModel, compiled: bool = False) -> None:
        self.model: Any = model
        self._block = torch.compile(_block, dynamic=False) if compiled else _block
        self._angles: dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor]] = {}

    def __call__(
        self, latents: torch.Tensor, t: torch.Tensor, text: torch.Tensor, lengths: torch.Tensor
    ) -> torch.Tensor:
        """Latents B by C by H by W, t B, text B by L by D of which `lengths` are real.

        Returns what the stock model returns: data minus noise.
        """
        model = self.model
        down, across = latents.shape[2] // 2, latents.shape[3] // 2
        if down * across % SEQ_MULTI_OF:
            raise ValueError("image tokens must fill whole blocks")
        cos, sin = self._rotation(down, across, latents.device)
        tokens = down * across
        when = model.t_embedder(t * model.t_scale)
        image = model.all_x_embedder["2-1"](_patchify(latents))
        for layer in model.noise_refiner:
            image = self._block(layer, image, cos[:tokens], sin[:tokens], when)
        words = self._embed_text(text, lengths)
        for layer in model.context_refiner:
            words = self._block(layer, words, cos[tokens:], sin[tokens:], None)
        both = torch.cat([image, words], dim=1)
        for layer in model.layers:
            both = self._block(layer, both, cos, sin, when)
        return _unpatchify(model.all_final_layer["2-1"](both[:, :tokens], c=when), down, across)

    def _embed_text(self, text: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        text = functional.pad(text, (0, 0, 0, TEXT_TOKENS - text.shape[1]))
        real = torch.arange(TEXT_TOKENS, device=text.device) < lengths[:, None]
        return torch.where(real[..., None], self.model.cap_embedder(text), self.model.cap_pad_token)

    def _rotation(self, down: int, across: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        if (down, across) not in self._angles:
            grid = self.model.create_coordinate_grid
            image = grid((1, down, across), (TEXT_TOKENS + 1, 0, 0), device).flatten(0, 2)
            words = grid((TEXT_TOKENS, 1, 1), (1, 0, 0), device).flatten(0, 2)
            turns = self.model.rope_embedder(torch.cat([image, words]))
            self._angles[down, across] = (turns.real.contiguous(), turns.imag.contiguous())
        return self._angles[down, across]


def _block(
    layer: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, when: torch.Tensor | None
) -> torch.Tensor:
    h = layer.attention_norm1(x)
    if when is not None:
        scale_attention, gate_attention, scale_mlp, gate_mlp = layer.adaLN_modulation(when).unsqueeze(1).chunk(4, dim=2)
        h = h * (1 + scale_attention)
    attended = layer.attention_norm2(_attend(layer.attention, h, cos, sin))
    x = x + (attended if when is None else gate_attention.tanh() * attended)
    h = layer.ffn_norm1(x)
    if when is not None:
        h = h * (1 + scale_mlp)
    mlp = layer.feed_forward
    opened, passed = functional.linear(h, torch.cat([mlp.w1.weight, mlp.w3.weight])).chunk(2, dim=-1)
    out = layer.ffn_norm2(mlp.w2(functional.silu(opened) * passed))
    return x + (out if when is None else gate_mlp.tanh() * out)


def _attend(attention: Any, h: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    batch, length, width = h.shape
    weights = torch.cat([attention.to_q.weight, attention.to_k.weight, attention.to_v.weight])
    q, k, v = functional.linear(h, weights).view(batch, length, 3, attention.heads, -1).unbind(2)
    q, k = _rotate(attention.norm_q(q), cos, sin), _rotate(attention.norm_k(k), cos, sin)
    out = functional.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    joined: torch.Tensor = attention.to_out[0](out.transpose(1, 2).reshape(batch, length, width))
    return joined


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[:, None], sin[:, None]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)


def _patchify(latents: torch.Tensor) -> torch.Tensor:
    batch, channels, height, width = latents.shape
    cells = latents.view(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 3, 5, 1)
    return cells.reshape(batch, height * width // 4, 4 * channels)


def _unpatchify(tokens: torch.Tensor, down: int, across: int) -> torch.Tensor:
    batch, _, values = tokens.shape
    cells = tokens.view(batch, down, across, 2, 2, values // 4).permute(0, 5, 1, 3, 2, 4)
    return cells.reshape(batch, values // 4, 2 * down, 2 * across)
