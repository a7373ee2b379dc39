"""What the benchmark runs: the tiny Z-Image on a CPU, or Z-Image's real shape with random weights on a GPU."""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from image import batch, tiny_untrained
from image.embeddings import Embeddings
from image.pipelines.zimage import ZImage
from image.request import ImageRequest, RequestId
from image.scheduler import Budget

PROMPT = "a small harbour at dawn, three boats and a lighthouse on the far side of the bay"


@dataclass(frozen=True)
class Setup:
    name: str
    stock: Any  # the bare diffusers pipeline, on the same weights
    pipeline: ZImage
    sizes: tuple[tuple[int, int], ...]  # smallest first
    steps: int
    budget: Budget

    def request(self, size: tuple[int, int], seed: int, partial_images: int = 0) -> ImageRequest:
        return ImageRequest(PROMPT, *size, self.steps, seed=seed, partial_images=partial_images)


def tiny() -> Setup:
    from diffusers import ZImagePipeline

    folder = tiny_untrained.ensure(Path(tempfile.gettempdir()) / "soundstage-bench" / tiny_untrained.MODEL)
    stock = ZImagePipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    stock.set_progress_bar_config(disable=True)
    torch.set_num_threads(1)  # steadier where others share the machine
    sizes = ((64, 64), (96, 96), (128, 128), (256, 256))
    budget = Budget(tokens=320, residents=32, padding=32)
    return Setup(tiny_untrained.MODEL, stock, ZImage(stock, tiny_untrained.MODEL), sizes, 8, budget)


def real() -> Setup:
    """A tiny text encoder feeds the transformer's real width: what is timed is the transformer and the VAE."""
    from diffusers import AutoencoderKL, ZImagePipeline, ZImageTransformer2DModel
    from transformers import Qwen3Config, Qwen3Model

    if not torch.cuda.is_available():
        raise SystemExit("--gpu needs a GPU")
    small = tiny()
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        transformer = ZImageTransformer2DModel().eval()
        for name, weight in transformer.named_parameters():
            if name.endswith("pad_token"):
                weight.fill_(1.0)
        encoder = Qwen3Model(
            Qwen3Config(
                vocab_size=len(small.stock.tokenizer),
                hidden_size=2560,
                intermediate_size=2560,
                num_hidden_layers=2,
                num_attention_heads=20,
                num_key_value_heads=4,
            )
        )
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            latent_channels=16,
            scaling_factor=0.3611,
            shift_factor=0.1159,
            use_quant_conv=False,
            use_post_quant_conv=False,
        )
    torch.set_default_dtype(torch.float32)
    stock = ZImagePipeline(small.stock.scheduler, vae, encoder, small.stock.tokenizer, transformer)
    stock.set_progress_bar_config(disable=True)
    sizes = ((256, 256), (512, 512), (768, 768), (1024, 1024))
    budget = Budget(tokens=4 * 4224, residents=32, padding=1024)
    return Setup("z-image shape, random weights, bfloat16", stock, ZImage(stock, "z-image"), sizes, 8, budget)


def saturation(setup: Setup) -> list[dict[str, float]]:
    """Images a second, memory and step time when every step is full; the arithmetic alone as the floor."""
    weights = sum(p.numel() for p in setup.stock.transformer.parameters())
    found = []
    for size in ((512, 512), (1024, 1024)):
        for rows in (1, 2, 4, 8):
            torch.cuda.reset_peak_memory_stats()
            seconds, tokens = _step_seconds(setup, size, rows)
            found.append(
                {
                    "side": size[0],
                    "batch": rows,
                    "step_seconds": seconds,
                    "images_per_second": rows / (seconds * setup.steps),
                    "teraflops": 2 * weights * tokens / seconds / 1e12,
                    "peak_bytes": torch.cuda.max_memory_allocated(),
                }
            )
    return found


def _step_seconds(setup: Setup, size: tuple[int, int], rows: int) -> tuple[float, int]:
    states = [batch.admit(setup.pipeline, setup.request(size, i), RequestId(i), 0) for i in range(rows)]
    batch.make_resident(setup.pipeline, states, Embeddings(0))
    times = [_timed(setup, states) for _ in range(5)]
    return min(times), sum(s.row_tokens for s in states)


def _timed(setup: Setup, states: Sequence[batch.RequestState]) -> float:
    started = time.perf_counter()
    batch.step(setup.pipeline, states)  # ends when its result is on the host
    return time.perf_counter() - started
