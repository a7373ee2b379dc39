"""Memory and speed of Z-Image's parts: number formats, attention, compiled blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from image.pipelines.zimage import ZImage
from image.settings import ImageSettings

_STEP = 256  # tokens: sequences are padded to a multiple of it up to _DOUBLING, to a power of two beyond
_DOUBLING = 2048
_SHAPES = 128  # lengths times row counts; after PyTorch's own 8 a block would go on uncompiled


def apply(pipeline: ZImage, settings: ImageSettings) -> None:
    """Raises ValueError for an attention backend that diffusers does not know."""
    if settings.image_encoder_dtype == "fp8":
        in_8_bits(pipeline.text_encoder)
    elif settings.image_encoder_dtype not in ("auto", "nf4"):
        pipeline.text_encoder.to(getattr(torch, settings.image_encoder_dtype))
    if settings.image_transformer_fp8:
        in_8_bits(pipeline.transformer)
    if settings.image_attention:
        pipeline.transformer.set_attention_backend(settings.image_attention)
    if settings.image_compile:
        compile_blocks(pipeline.transformer)


def in_8_bits(part: Any) -> None:
    """Keep linear weights as float8; each layer widens its own just before it computes."""
    from diffusers.hooks import apply_layerwise_casting

    dtype = part.dtype
    skipped = ("norm", "embed", *(getattr(part, "_skip_layerwise_casting_patterns", None) or ()))
    apply_layerwise_casting(part, storage_dtype=torch.float8_e4m3fn, compute_dtype=dtype, skip_modules_pattern=skipped)
    for layer in part.modules():
        if isinstance(layer, torch.nn.Linear):
            layer.compute_dtype = dtype  # where peft looks: an adapter in 8 bits cannot compute


def encoder_in_4_bits(folder: Path, device: str, dtype: torch.dtype) -> Any:
    """The text encoder through bitsandbytes, on the device from the start."""
    from transformers import AutoModel, BitsAndBytesConfig

    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    return AutoModel.from_pretrained(
        folder / "text_encoder", quantization_config=config, dtype=dtype, device_map=device, local_files_only=True
    )


def bucket(tokens: int) -> int:
    """The length that a sequence is padded to, so that few shapes are compiled."""
    if tokens <= _DOUBLING:
        return -(-tokens // _STEP) * _STEP
    return 1 << (tokens - 1).bit_length()


def compile_blocks(transformer: Any, **options: Any) -> None:
    """Compile the repeated blocks; each sees a few lengths and row counts only. `options` go to torch.compile."""
    for layers in (transformer.noise_refiner, transformer.context_refiner, transformer.layers):
        for i, block in enumerate(layers):
            compiled = torch.compile(block, dynamic=False, recompile_limit=_SHAPES, **options)
            layers[i] = _Bucketed(block, compiled)


class _Bucketed(torch.nn.Module):  # type: ignore[misc,unused-ignore]
    """A block on sequences padded to a bucket; what is added is masked, and cut off again."""

    def __init__(self, block: torch.nn.Module, compiled: Any) -> None:
        super().__init__()
        self.block = block
        self._compiled = [compiled]  # in a list: not a second child

    def forward(self, x: torch.Tensor, mask: Any, freqs: torch.Tensor, *rest: Any) -> torch.Tensor:
        rows, length = x.shape[:2]
        more_rows, more = (1 << (rows - 1).bit_length()) - rows, bucket(length) - length
        if mask is None:
            mask = torch.ones(rows, length, dtype=torch.bool, device=x.device)
        # An added row attends to its own zeros: a row with nothing to attend to would be NaN.
        mask = functional.pad(functional.pad(mask, (0, more)), (0, 0, 0, more_rows), value=True)
        x = functional.pad(x, (0, 0, 0, more, 0, more_rows))
        freqs = functional.pad(freqs, (0,) * (2 * (freqs.dim() - 2)) + (0, more, 0, more_rows))
        rest = tuple(_more_rows(value, rows, more_rows) for value in rest)
        result: torch.Tensor = self._compiled[0](x, mask, freqs, *rest)
        return result[:rows, :length]


def _more_rows(value: Any, rows: int, more: int) -> Any:
    if not isinstance(value, torch.Tensor) or value.shape[0] != rows:
        return value
    return functional.pad(value, (0,) * (2 * (value.dim() - 1)) + (0, more))
