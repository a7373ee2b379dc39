"""The parts of the pipeline, at their sizes, and where their weights begin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from training.tiny import scenes, vocabulary
from training.tiny.latents import CHANNELS

if TYPE_CHECKING:
    import numpy as np
    import torch
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, ZImageTransformer2DModel
    from transformers import Qwen3Model

SHIFT = 3.0  # of the sampler's noise levels, as Turbo's; training draws them from the same curve


@dataclass(frozen=True)
class Sizes:
    """Of the transformer and the text encoder, which share their width."""

    width: int = 192
    heads: int = 4
    layers: int = 5
    text_layers: int = 3  # the last one's output is never read: the pipeline takes the state before it
    autoencoder: tuple[int, ...] = (16, 32, 64, 128)


def transformer(sizes: Sizes) -> ZImageTransformer2DModel:
    import torch
    from diffusers import ZImageTransformer2DModel

    head = sizes.width // sizes.heads
    axis = head // 6 * 2  # a third of a head for each of position, row and column; even
    made = ZImageTransformer2DModel(
        dim=sizes.width,
        n_layers=sizes.layers,
        n_refiner_layers=1,
        n_heads=sizes.heads,
        n_kv_heads=sizes.heads,
        cap_feat_dim=sizes.width,
        axes_dims=[head - 2 * axis, axis, axis],
        axes_lens=[1024, 128, 128],
        in_channels=CHANNELS,
    )
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if name.endswith("pad_token"):
                weight.normal_(std=0.02)
            elif "all_final_layer" in name and ".linear." in name:
                weight.zero_()
            elif name.endswith("adaLN_modulation.0.bias") and "final" not in name:
                # Gates begin half open: residual branches learn from the first step on.
                scale_attention, gate_attention, scale_mlp, gate_mlp = weight.chunk(4)
                for part, value in ((scale_attention, 0), (gate_attention, 0.5), (scale_mlp, 0), (gate_mlp, 0.5)):
                    part.fill_(value)
    return made


def text_encoder(sizes: Sizes, codes: np.ndarray[Any, Any] | None = None) -> Qwen3Model:
    """`codes`: a row for each noun, what its icons look like; its embedding begins there."""
    import torch
    from transformers import Qwen3Config, Qwen3Model

    tokens = len(vocabulary.SPECIAL) + len(vocabulary.words())
    made = Qwen3Model(
        Qwen3Config(
            vocab_size=tokens,
            hidden_size=sizes.width,
            intermediate_size=sizes.width * 8 // 3,
            num_hidden_layers=sizes.text_layers,
            num_attention_heads=sizes.heads,
            num_key_value_heads=sizes.heads,
            head_dim=sizes.width // sizes.heads,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            use_cache=False,
        )
    )
    with torch.no_grad():
        table = made.embed_tokens.weight.normal_(std=0.5)
        if codes is not None:
            first = len(vocabulary.SPECIAL)  # nouns follow the special tokens
            table[first : first + len(codes)] = torch.from_numpy(codes) * 0.5
    return made


def looks(icons: np.ndarray[Any, Any], width: int) -> np.ndarray[Any, Any]:
    """Codes of pictures, N by anything: N by `width` principal components, 1 on the whole."""
    import numpy as np

    flat = icons.reshape(len(icons), -1)
    flat = flat - flat.mean(axis=0)
    squares, left = np.linalg.eigh(flat @ flat.T)
    codes = (left * squares.clip(0) ** 0.25)[:, ::-1][:, :width]
    padded = np.zeros((len(icons), width), np.float32)
    padded[:, : codes.shape[1]] = codes / codes.std()
    return padded


def autoencoder(sizes: Sizes) -> AutoencoderKL:
    """Residual branches begin silent. The encoder has no doubt: the variance that it gives is nothing."""
    import torch
    from diffusers import AutoencoderKL

    made = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=sizes.autoencoder,
        layers_per_block=1,
        latent_channels=CHANNELS,
        norm_num_groups=8,
        sample_size=128,
        scaling_factor=1.0,  # the latent space is scaled already
        shift_factor=0.0,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
    )
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if ".resnets." in name and ".conv2." in name:
                weight.zero_()
        last = made.encoder.conv_out
        last.weight[CHANNELS:] = 0
        last.bias[CHANNELS:] = -20  # the logarithm of it
    return made


def scheduler() -> FlowMatchEulerDiscreteScheduler:
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(shift=SHIFT)


def noise_levels(steps: int) -> list[float]:
    """What the pipeline steps through, the closing 0 left out."""
    plain = [1 - i * (1 - 1 / steps) / (steps - 1) if steps > 1 else 1.0 for i in range(steps)]
    return [SHIFT * s / (1 + (SHIFT - 1) * s) for s in plain]


def noun_count() -> int:
    return len(scenes.things())


def count(part: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in part.parameters())
