"""What the benchmark runs: the tiny Z-Image on a CPU, or Z-Image's real shape with random weights on a GPU."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from image.pipelines.zimage import ZImage
from image.request import ImageRequest
from image.scheduler import Budget
from training import untrained

Size = tuple[int, int]
PROMPT = "a small harbour at dawn, three boats and a lighthouse on the far side of the bay"


@dataclass(frozen=True)
class Setup:
    name: str
    stock: Any  # the bare diffusers pipeline, on the same weights
    pipeline: ZImage
    sizes: tuple[Size, ...]  # smallest first
    steps: int
    budget: Budget

    @property
    def read(self) -> Callable[[], float]:
        """Seconds: on a CPU the process's own, so that others on the machine do not count; else the wall's."""
        return time.process_time if self.stock.transformer.device.type == "cpu" else time.perf_counter

    def request(self, size: Size, seed: int, partial_images: int = 0) -> ImageRequest:
        return ImageRequest(PROMPT, *size, self.steps, seed=seed, partial_images=partial_images)


@dataclass(frozen=True)
class Shape:
    """What the GPU benchmark builds with random weights."""

    name: str
    transformer: dict[str, Any]  # beyond the library's defaults, which are Z-Image's
    encoder_heads: int
    vae_channels: tuple[int, ...]
    sizes: tuple[Size, ...]


Z_IMAGE = Shape(
    "z-image shape, random weights, bfloat16",
    {},
    20,
    (128, 256, 512, 512),
    ((256, 256), (512, 512), (768, 768), (1024, 1024)),
)
SMALL = Shape(  # walks through the same code where there is no GPU
    "small shape, random weights, bfloat16",
    {"dim": 64, "n_layers": 2, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2, "cap_feat_dim": 32}
    | {"axes_dims": [8, 12, 12], "axes_lens": [1024, 128, 128]},
    2,
    (16, 16, 16, 16),
    ((64, 64), (96, 96), (128, 128), (256, 256)),
)


def tiny() -> Setup:
    from diffusers import ZImagePipeline

    folder = untrained.ensure(Path(tempfile.gettempdir()) / "soundstage-bench" / untrained.MODEL)
    stock = ZImagePipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    stock.set_progress_bar_config(disable=True)
    torch.set_num_threads(1)  # steadier where others share the machine
    sizes = ((64, 64), (96, 96), (128, 128), (256, 256))
    budget = Budget(tokens=320, residents=32, padding=32)
    return Setup(untrained.MODEL, stock, ZImage(stock, untrained.MODEL), sizes, 8, budget)


def real(device: str = "cuda", shape: Shape = Z_IMAGE) -> Setup:
    """A tiny text encoder feeds the transformer's real width: what is timed is the transformer and the VAE."""
    from diffusers import AutoencoderKL, ZImagePipeline, ZImageTransformer2DModel
    from transformers import Qwen3Config, Qwen3Model

    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--gpu needs a GPU")
    small = tiny()
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        transformer = ZImageTransformer2DModel(**shape.transformer).eval()
        for name, weight in transformer.named_parameters():
            if name.endswith("pad_token"):
                weight.fill_(1.0)
        encoder = Qwen3Model(
            Qwen3Config(
                vocab_size=len(small.stock.tokenizer),
                hidden_size=transformer.config.cap_feat_dim,
                intermediate_size=transformer.config.cap_feat_dim,
                num_hidden_layers=2,
                num_attention_heads=shape.encoder_heads,
                num_key_value_heads=2,
            )
        )
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=shape.vae_channels,
            layers_per_block=2,
            latent_channels=16,
            norm_num_groups=shape.vae_channels[0] // 4,
            scaling_factor=0.3611,
            shift_factor=0.1159,
            use_quant_conv=False,
            use_post_quant_conv=False,
        )
    torch.set_default_dtype(torch.float32)
    stock = ZImagePipeline(small.stock.scheduler, vae, encoder, small.stock.tokenizer, transformer)
    stock.set_progress_bar_config(disable=True)
    budget = Budget(tokens=4 * 4224, residents=32, padding=1024)
    return Setup(shape.name, stock, ZImage(stock, "z-image"), shape.sizes, 8, budget)
