"""What the selfie worker reads besides what every worker reads."""

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, model_validator

from core.settings import WorkerSettings


class VisionSettings(WorkerSettings):
    port: int = Field(8003, ge=0, le=65535, description="Port the service binds.")
    max_body_bytes: int = Field(16 << 20, ge=1024, description="Largest request body accepted, in bytes.")
    max_image_bytes: int = Field(15 << 20, ge=1024, description="Largest image file accepted, in bytes.")
    max_image_pixels: int = Field(25_000_000, ge=1024, description="Most pixels an image may decode to.")
    max_decode_mb: int = Field(
        200, ge=64, le=4096, description="Memory that decoding one image may take, in MiB; it limits pixels by format."
    )
    decode_seconds: int = Field(10, ge=1, le=300, description="Longest time that decoding one image may take.")
    upload_seconds: float = Field(30, gt=0, description="Longest time a caller may take to send a body.")
    vision_threads: int = Field(2, ge=1, le=64, description="Images decoded at once, each in a process of its own.")
    vision_queue_max: int = Field(8, ge=0, le=1000, description="Requests waiting behind those; more get 429.")
    vision_batch: int = Field(8, ge=1, le=256, description="Most images that the detector takes at once.")
    vision_detector: Literal["blazeface", "yolo"] = Field(
        "blazeface", description="The face detector; yolo needs the group `vision-yolo`, whose Ultralytics is AGPL-3.0."
    )
    vision_device: str = Field("cpu", description="Device of the YOLO detector: cpu, cuda:0, ….")
    face_model: Path | None = Field(None, description="A face_detection_full_range.tflite, if not the installed one.")
    yolo_weights: Path | None = Field(None, description="Weights of a YOLO face model, for VISION_DETECTOR=yolo.")
    vision_features: Literal["small", "none"] = Field(
        "small", description="Read apparent age and expression with the small models, or not at all."
    )
    vision_vlm_url: str | None = Field(
        None, description="An OpenAI-compatible server of a vision-language model, with its /v1; unset: none is asked."
    )
    vision_vlm_model: str | None = Field(None, description="The model's name there.")
    vision_vlm_key: SecretStr | None = Field(None, description="The key of VISION_VLM_URL, where it wants one.")
    vision_vlm_seconds: float = Field(60, gt=0, description="Longest wait for an answer of the vision-language model.")

    @model_validator(mode="after")
    def _whole(self) -> "VisionSettings":
        if self.vision_vlm_url and not self.vision_vlm_model:
            raise ValueError("VISION_VLM_URL is set, so VISION_VLM_MODEL must be, too")
        return self
