"""What the selfie worker reads besides what every worker reads."""

from pathlib import Path

from pydantic import Field

from core.settings import WorkerSettings


class VisionSettings(WorkerSettings):
    port: int = Field(8003, ge=0, le=65535, description="Port the service binds.")
    max_body_bytes: int = Field(16 << 20, ge=1024, description="Largest request body accepted, in bytes.")
    max_image_bytes: int = Field(15 << 20, ge=1024, description="Largest image file accepted, in bytes.")
    max_image_pixels: int = Field(25_000_000, ge=1024, description="Most pixels an image may decode to.")
    upload_seconds: float = Field(30, gt=0, description="Longest time a caller may take to send a body.")
    vision_threads: int = Field(2, ge=1, le=64, description="Images worked on at once.")
    vision_queue_max: int = Field(8, ge=0, le=1000, description="Requests waiting behind those; more get 429.")
    face_model: Path | None = Field(None, description="A face_detection_full_range.tflite, if not the installed one.")
