"""A tiny Z-Image checkpoint with untrained weights: the whole pipeline, at a size any CPU can run.

Its pictures mean nothing. It has Z-Image's parts and proportions (16 pixels to a token, so an image
counts as many tokens as in the real model), its own small tokenizer, and weights that depend on a
seed only. The folder is in diffusers' layout: stock `ZImagePipeline.from_pretrained` loads it.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast

MODEL = "zimage-tiny-untrained"
RECIPE = "1"  # raise it when what is built changes: folders of another recipe are built anew
_MARK = "soundstage-recipe.txt"
_TEXT_WIDTH = 16

_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_LETTERS = "etaoinshrdlcumwfgypbvkjxqz"  # by frequency in English
_FREQUENT = "thheineranrendatonnthaesstenedtoitoueahiisortiasteetngofaldeselesasiarveraldur"
_PAIRS = tuple(_FREQUENT[i : i + 2] for i in range(0, len(_FREQUENT), 2))


def ensure(folder: Path, seed: int = 0) -> Path:
    """Build the checkpoint in `folder` unless it is there; a build that is cut off leaves nothing."""
    mark = folder / _MARK
    recipe = f"{RECIPE} seed {seed}"
    if mark.is_file() and mark.read_text() == recipe:
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    _save(fresh, seed)
    (fresh / _MARK).write_text(recipe)
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)
    return folder


def _save(folder: Path, seed: int) -> None:
    from diffusers import (
        AutoencoderKL,
        FlowMatchEulerDiscreteScheduler,
        ZImagePipeline,
        ZImageTransformer2DModel,
    )
    from transformers import Qwen3Config, Qwen3Model

    tokenizer = _tokenizer()
    text_encoder = Qwen3Model(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=_TEXT_WIDTH,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=8,
            max_position_embeddings=1024,
        )
    )
    transformer = ZImageTransformer2DModel(
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=_TEXT_WIDTH,
        axes_dims=[8, 4, 4],
        axes_lens=[1024, 128, 128],
        in_channels=16,
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 16, 16),
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=4,
        scaling_factor=0.3611,
        shift_factor=0.1159,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
    )
    for part in (text_encoder, transformer, vae):
        _draw_weights(part, seed)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    ZImagePipeline(scheduler, vae, text_encoder, tokenizer, transformer).save_pretrained(folder)


def _draw_weights(part: torch.nn.Module, seed: int) -> None:
    """Normal weights that keep variance, so that every input visibly moves the output."""
    import torch

    generator = torch.Generator("cpu").manual_seed(seed)
    with torch.no_grad():
        for name, weight in part.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if name.endswith("pad_token"):
                weight.fill_(1.0)
            elif weight.dim() > 1:
                weight.copy_(noise / math.sqrt(weight[0].numel()))
            elif "norm" in name and name.endswith("weight"):
                weight.copy_(1 + 0.1 * noise)
            else:
                weight.copy_(0.1 * noise)


def _tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, joined to pairs and to frequent pairs of pairs: about 2.5 characters a token."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    space = "Ġ"  # how byte-level BPE writes a space
    merges = [(a, b) for a in _LETTERS for b in _LETTERS]
    merges += [(a, b) for a in _PAIRS for b in _PAIRS]
    merges += [(space, letter) for letter in _LETTERS]
    merges += [(space, pair) for pair in _PAIRS]
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *(a + b for a, b in merges)]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in _SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=_SPECIAL[0],
        eos_token=_SPECIAL[2],
        padding_side="right",
        model_max_length=1024,
        chat_template=_CHATML,
    )
