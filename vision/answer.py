"""What the worker answers. Boxes are in pixels of the photo as it was sent, upright."""

from typing import Literal

from pydantic import BaseModel, Field, JsonValue

Score = float
WarningCode = Literal["no_face", "several_faces", "low_quality"]


class BoxOut(BaseModel):
    x: int
    y: int
    width: int
    height: int


class Found(BaseModel):
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
    angles: AnglesOut | None = Field(description="Degrees; 0 looks straight into the camera.")
    others: list[Found] = Field(description="Further faces, surest first.")


class WarningOut(BaseModel):
    code: WarningCode
    message: str


class Analysis(BaseModel):
    """Answer of POST /v1/profile/analyze."""

    features: dict[str, JsonValue] = Field(
        description="What a model reads from the face; empty, as none is configured."
    )
    face: FaceOut
    image: ImageSize
    warnings: list[WarningOut]


class Faces(BaseModel):
    """Answer of POST /v1/faces."""

    faces: list[Found]
    image: ImageSize
