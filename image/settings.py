"""What the image worker reads from its settings file and the environment."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from core.settings import CommaList, WorkerSettings
from image import tiny_untrained
from image.request import Limits, parse_size
from image.scheduler import Budget


class ImageSettings(WorkerSettings):
    """Read once, in `__main__`."""

    port: int = Field(8001, ge=0, le=65535, description="Port the service binds.")
    image_model: Path | None = Field(
        None, description="A Z-Image checkpoint folder in diffusers' layout; unset: a tiny untrained one."
    )
    image_model_id: str | None = Field(None, description="The model's id for callers; unset: its folder's name.")
    image_device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?|mps)$", description="Where the model runs.")
    image_dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Weights; auto: bfloat16 on an accelerator, float32 on a CPU. Latents are float32."
    )
    image_threads: int = Field(0, ge=0, le=1024, description="CPU threads of the model; 0 leaves PyTorch's choice.")
    image_roles: CommaList = Field((), description="Pools to serve: profile, chat1to1, shorts, scenes; unset: any.")

    image_default_size: str = Field("1024x1024", pattern=r"^\d+x\d+$", description="Size where none is asked for.")
    image_default_steps: int = Field(8, ge=1, description="Denoising steps where none are asked for.")
    image_default_guidance: float = Field(0.0, ge=0, description="Guidance where none is asked for; 0 is off.")
    image_max_side: int = Field(2048, ge=64, description="Longest side accepted, in pixels.")
    image_max_steps: int = Field(100, ge=1, description="Most steps accepted.")

    image_queue_max: int = Field(64, ge=1, description="Images running or waiting at once; more get 429.")
    image_residents: int = Field(32, ge=1, description="Images whose state is on the device at once.")
    image_token_budget: int = Field(16_896, ge=1, description="Most tokens in one step, padding counted.")
    image_padding_tokens: int = Field(1024, ge=0, description="Padding worth computing to save a model call.")
    image_patience: int = Field(4, ge=0, description="An image is due this many times its own work after arrival.")
    interface_retry_after_cap_ms: int = Field(30_000, ge=1000, description="Longest Retry-After told, in ms.")

    @property
    def model_id(self) -> str:
        return self.image_model_id or self.checkpoint.name

    @property
    def checkpoint(self) -> Path:
        return self.image_model or self.data_dir / "models" / tiny_untrained.MODEL

    @property
    def default_size(self) -> tuple[int, int]:
        return parse_size(self.image_default_size)

    @property
    def limits(self) -> Limits:
        side = self.image_max_side
        return Limits(max_side=side, max_pixels=side * side, max_steps=self.image_max_steps)

    @property
    def budget(self) -> Budget:
        return Budget(
            tokens=self.image_token_budget,
            residents=self.image_residents,
            padding=self.image_padding_tokens,
            patience=self.image_patience,
        )
