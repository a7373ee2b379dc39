"""What the worker answers. Boxes are in pixels of the photo as it was sent, upright."""

from typing import Literal

from pydantic import BaseModel, Field

from core.usage import Usage

Score = float
WarningCode = Literal[
    "no_face",
    "several_faces",
    "low_quality",
    "apparent_minor",
    "ambiguous_age",
    "no_vision_model",
    "vision_model_unavailable",
    "vision_model_schema",
]


class BoxOut(BaseModel):
    x: int
    y: int
    width: int
    height: int


class FaceBox(BaseModel):
    box: BoxOut
    score: Score = Field(description="The detector's confidence, 0 to 1.")


class ImageSize(BaseModel):
    width: int
    height: int


class AnglesOut(BaseModel):
    yaw: float
    pitch: float
    roll: float


class FaceOut(BaseModel):
    """The subject's face; without one, the quality of the whole picture with a penalty. Scores are 0 to 1."""

    found: bool
    box: BoxOut | None
    score: Score | None
    quality_score: Score
    sharpness: Score
    brightness: float = Field(description="Mean luma, 0 to 1: a measurement, not a score.")
    exposure: Score
    size: Score
    pose: Score
    visibility: Score = Field(description="A hint: 1 where nothing seems to cover the face.")
    compression: Score = Field(description="1 where a JPEG's blocks do not show.")
    angles: AnglesOut | None = Field(description="Degrees; 0 looks straight into the camera.")
    others: list[FaceBox] = Field(description="Further faces, surest first.")


class FeatureOut(BaseModel):
    value: str | bool
    confidence: Score | None = Field(description="0 to 1, where the source gives one.")
    source: str = Field(description="The model that it comes from.")


class WarningOut(BaseModel):
    code: WarningCode
    message: str
    details: list[str] = Field(default_factory=list, description="Where a vision model's answer broke the schema.")


class UsageOut(BaseModel):
    """Tokens of all that the vision model was asked."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int

    @classmethod
    def of(cls, usage: Usage) -> "UsageOut":
        return cls(prompt_tokens=usage.input, completion_tokens=usage.output, total_tokens=usage.total)


class Analysis(BaseModel):
    """Answer of POST /v1/profile/analyze."""

    features: dict[str, FeatureOut] = Field(description="What models read from the face.")
    face: FaceOut
    image: ImageSize
    apparent_age: Literal["minor", "ambiguous", "adult", "unknown"]
    vision_model: str | None = Field(description="The vision-language model whose answer is among the features.")
    warnings: list[WarningOut]
    portrait: str | None = Field(description="Where asked for: the subject upright, without metadata; JPEG in base64.")
    usage: UsageOut | None = Field(None, description="Where a vision model was asked. It stands last in the answer.")


class Faces(BaseModel):
    """Answer of POST /v1/faces."""

    faces: list[FaceBox]
    image: ImageSize
