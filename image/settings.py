"""What the image worker reads from its settings file and the environment."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from core.settings import CommaList, DeviceSettings
from image.request import Limits, parse_size
from image.scheduler import Budget

TRAINED = Path(__file__).parent / "models" / "zimage-tiny-icons"
"""The small trained pipeline that is shipped (docs/tiny-model.md)."""


class ImageSettings(DeviceSettings):
    """Read once, in `__main__`."""

    port: int = Field(8001, ge=0, le=65535, description="Port the service binds.")
    image_model: Path | None = Field(
        None,
        description="A text-to-image checkpoint folder in diffusers' layout; unset: the small one that is shipped.",
    )
    image_model_id: str | None = Field(None, description="The model's id for callers; unset: its folder's name.")
    image_more_models: CommaList = Field((), description="More checkpoint folders to serve; an id is a folder's name.")
    image_device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?|mps)$", description="Where the model runs.")
    image_dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Weights; auto: bfloat16 on an accelerator, float32 on a CPU. Latents are float32."
    )
    image_encoder_dtype: Literal["auto", "float32", "bfloat16", "float16", "fp8", "nf4"] = Field(
        "auto", description="Text encoder's weights, where they differ: fp8 halves them, nf4 (bitsandbytes) quarters."
    )
    image_transformer_fp8: bool = Field(False, description="Keep the transformer's weights in 8 bits; half the memory.")
    image_attention: str | None = Field(None, description="A diffusers attention backend; unset: PyTorch's own.")
    image_compile: bool = Field(False, description="Compile the transformer's blocks; shapes are padded to buckets.")
    image_preview: Literal["matrix", "vae"] = Field("matrix", description="How unfinished images are shown.")
    image_preview_decoder: Path | None = Field(None, description="An AutoencoderTiny folder that shows them instead.")
    image_lora_dir: Path | None = Field(
        None, description="A folder of LoRA files; `lora` names one without .safetensors."
    )
    image_lora_max: int = Field(4, ge=1, description="Most adapters loaded at once; the least recently used goes.")
    image_lora_max_mb: int = Field(2048, ge=1, description="Most MiB of adapter files loaded at once.")
    image_threads: int = Field(0, ge=0, le=1024, description="CPU threads of the model; 0 leaves PyTorch's choice.")
    image_roles: CommaList = Field((), description="Pools to serve: profile, chat1to1, shorts, scenes; unset: any.")

    image_default_size: str | None = Field(
        None,
        pattern=r"^\d+x\d+$",
        description="Size where none is asked for; unset: 1024x1024, and 128x128 of the model that is shipped.",
    )
    image_default_steps: int = Field(8, ge=1, description="Denoising steps where none are asked for.")
    image_default_guidance: float = Field(0.0, ge=0, description="Guidance where none is asked for; 0 is off.")
    image_max_side: int = Field(2048, ge=64, description="Longest side accepted, in pixels.")
    image_max_steps: int = Field(100, ge=1, description="Most steps accepted.")

    image_queue_max: int = Field(64, ge=1, description="Images running or waiting at once; more get 429.")
    image_residents: int = Field(32, ge=1, description="Images whose state is on the device at once.")
    image_token_budget: int = Field(
        0, ge=0, description="Most tokens in one step, padding counted; 0: measured once for the device and kept."
    )
    image_padding_tokens: int = Field(1024, ge=0, description="Padding worth computing to save a model call.")
    image_patience: int = Field(4, ge=0, description="An image is due this many times its own work after arrival.")
    image_embedding_cache_mb: int = Field(256, ge=0, description="Prompt embeddings kept, in MiB; 0 keeps none.")
    image_encode_batch: int = Field(8, ge=1, description="Most images whose prompts are encoded between two steps.")
    image_decode_pixels: int = Field(2 << 20, ge=1, description="Most pixels decoded together between two steps.")
    image_whole_batch: int = Field(4, ge=1, description="Most equal requests in a run of a model that is not stepped.")
    image_hang_seconds: float = Field(300.0, gt=0, description="A device call this long is taken for hung.")
    image_drain_seconds: float = Field(60.0, ge=0, description="Time that running images get when told to stop.")
    image_link_seconds: int = Field(3600, ge=1, description="How long the links of response_format url work.")
    image_repeats_max: int = Field(256, ge=0, description="Finished calls kept for who asks again with their key.")
    image_repeats_mb: int = Field(256, ge=0, description="Most MiB of their pixels.")
    image_repeats_seconds: float = Field(600.0, gt=0, description="How long each is kept.")
    image_max_source_pixels: int = Field(50_000_000, ge=1, description="Largest picture accepted for an edit.")
    image_decode_mb: int = Field(
        512, ge=128, le=8192, description="Memory that decoding one may take, in MiB; it limits pixels by format."
    )
    image_decode_seconds: int = Field(30, ge=1, le=300, description="Longest time that decoding one may take.")
    image_decode_processes: int = Field(2, ge=1, le=64, description="How many are decoded at once, a process each.")
    image_sources_mb: int = Field(1024, ge=1, description="Memory for the pictures of all edits here, in MiB.")
    image_sources_waiting: int = Field(32, ge=0, description="Edits that wait for that memory; more get 429.")
    image_sources_seconds: float = Field(30.0, ge=0, description="Longest wait for it; then a 429.")
    image_c2pa_certificate: Path | None = Field(None, description="PEM chain to sign pictures with (C2PA).")
    image_c2pa_key: Path | None = Field(None, description="PEM key of that certificate.")
    image_c2pa_algorithm: Literal["es256", "es384", "es512", "ps256", "ps384", "ps512", "ed25519"] = Field(
        "es256", description="The certificate's signing algorithm."
    )
    image_c2pa_timestamp_url: str | None = Field(None, description="A timestamp authority for signatures.")
    interface_retry_after_cap_ms: int = Field(30_000, ge=1000, description="Longest Retry-After told, in ms.")

    @property
    def model_id(self) -> str:
        return self.image_model_id or self.checkpoint.name

    @property
    def checkpoint(self) -> Path:
        return self.image_model or TRAINED

    @property
    def checkpoints(self) -> dict[str, Path]:
        """Every model's folder by its id, the default model first."""
        more = (Path(folder) for folder in self.image_more_models)
        return {self.model_id: self.checkpoint, **{folder.name: folder for folder in more}}

    @property
    def default_size(self) -> tuple[int, int]:
        return parse_size(self.image_default_size or ("1024x1024" if self.image_model else "128x128"))

    @property
    def limits(self) -> Limits:
        side = self.image_max_side
        return Limits(max_side=side, max_pixels=side * side, max_steps=self.image_max_steps)

    @property
    def budget(self) -> Budget:
        return Budget(
            tokens=self.image_token_budget or 1,
            residents=self.image_residents,
            padding=self.image_padding_tokens,
            patience=self.image_patience,
        )
