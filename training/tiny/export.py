"""The trained parts as one folder that stock diffusers loads: `ZImagePipeline.from_pretrained`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from training.tiny import model, vocabulary
from training.tiny.pictures import SIDE

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, ZImageTransformer2DModel
    from transformers import Qwen3Model


def export(
    folder: Path, transformer: ZImageTransformer2DModel, text_encoder: Qwen3Model, autoencoder: AutoencoderKL
) -> None:
    """float16 safetensors. What else lies in the folder (its card) stays."""
    from diffusers import ZImagePipeline

    halves = (autoencoder.half(), text_encoder.half(), vocabulary.tokenizer(), transformer.half())
    folder.mkdir(parents=True, exist_ok=True)
    ZImagePipeline(model.scheduler(), *halves).save_pretrained(folder)
    (folder / "soundstage.json").write_text(json.dumps({"canvas": SIDE}) + "\n")
