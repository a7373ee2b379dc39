"""What a call for pictures asks for that costs: how many, how large, in how many steps.

There is one reading of it: image workers draw by it, and the gateway counts and schedules by it.
"""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict
from pydantic_core import PydanticCustomError


def size_of(text: str) -> tuple[int, int] | None:
    """`WIDTHxHEIGHT` in pixels as two integers; None for anything else."""
    parts = text.split("x")
    if len(parts) == 2 and all(p.isascii() and p.isdigit() and len(p) <= 5 for p in parts):
        return int(parts[0]), int(parts[1])
    return None


def _size(text: str) -> str:
    if text != "auto" and size_of(text) is None:
        raise PydanticCustomError("invalid_size", "must be 'auto' or 'WIDTHxHEIGHT' in pixels.")
    return text


class PicturesAsked(BaseModel):
    """A type that is not exactly the field's is refused, never guessed; in a form a number is a text."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    n: int | None = None
    size: Annotated[str, AfterValidator(_size)] | None = None
    steps: int | None = None

    @property
    def count(self) -> int:
        return 1 if self.n is None else self.n

    def asked_size(self) -> tuple[int, int] | None:
        """None for auto."""
        return None if self.size is None else size_of(self.size)
