"""How much work a request is, roughly, before it is done. Pure. The unit: a token, or its like in pixels and steps."""

from typing import Any

import msgspec

from core.wire.workers import Ability
from orchestrator.limits import Needs

BYTES_PER_TOKEN = 4
DEFAULT_OUTPUT_TOKENS = 512
"""Of a request that sets no limit: most answers are shorter than a model's context."""
PIXELS_PER_TOKEN = 256  # a latent token of two by two, each of eight by eight pixels
DEFAULT_PIXELS = 1024 * 1024
DEFAULT_STEPS = 8
MOST = 1e9


class _Asked(msgspec.Struct):
    """Anything may stand there: what is wrong is the worker's to refuse."""

    max_tokens: Any = None
    max_completion_tokens: Any = None
    max_output_tokens: Any = None
    n: Any = None
    size: Any = None
    steps: Any = None


_asked = msgspec.json.Decoder(_Asked).decode


def estimate(ability: Ability, body: bytes) -> float:
    """Of a JSON body; of another (a form), by its bytes."""
    try:
        asked = _asked(body)
    except msgspec.DecodeError:
        return max(1.0, len(body) / BYTES_PER_TOKEN)
    count = _number(asked.n, 1)
    if ability in ("images", "image_edits"):
        return min(count * _pixels(asked.size) / PIXELS_PER_TOKEN * _number(asked.steps, DEFAULT_STEPS), MOST)
    limit = asked.max_completion_tokens or asked.max_tokens or asked.max_output_tokens
    return min(len(body) / BYTES_PER_TOKEN + count * _number(limit, DEFAULT_OUTPUT_TOKENS), MOST)


def most(ability: Ability, body: bytes, context: int | None) -> Needs:
    """What a request may take at most. No token is shorter than a byte; an answer of no stated limit may fill the
    model's `context`, in tokens."""
    if ability == "faces":
        return Needs()  # a picture's bytes are no tokens
    asked = _asked(body)
    count = int(_number(asked.n, 1))
    if ability in ("images", "image_edits"):
        return Needs(images=count)
    if ability not in ("chat", "completions", "responses"):
        return Needs(tokens=len(body))
    unlimited = context or DEFAULT_OUTPUT_TOKENS
    limit = _number(asked.max_completion_tokens or asked.max_tokens or asked.max_output_tokens, unlimited)
    prompt = min(len(body), context) if context else len(body)
    return Needs(tokens=prompt + count * int(min(limit, unlimited) if context else limit))


def _number(value: object, default: float) -> float:
    return float(value) if isinstance(value, int | float) and 0 < value < MOST else default


def _pixels(size: object) -> float:
    parts = size.lower().split("x") if isinstance(size, str) else []
    if len(parts) == 2 and all(part.isascii() and part.isdigit() and len(part) < 6 for part in parts):
        return max(1.0, float(parts[0]) * float(parts[1]))
    return DEFAULT_PIXELS
