"""Text that is going to be kept: Postgres takes every character but NUL."""

from typing import Annotated

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError


def _storable(text: str) -> str:
    if "\x00" in text:
        raise PydanticCustomError("nul_character", "A NUL character cannot be kept")
    return text


Text = Annotated[str, AfterValidator(_storable)]
