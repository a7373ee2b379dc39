"""How much work a request is, roughly, before it is done. Pure. The unit: a token, or its like in pixels and steps."""

from typing import Any

import msgspec

from core.json_text import NOT_JSON, decoded
from core.wire.images import PicturesAsked
from core.wire.workers import Ability
from orchestrator.limits import Needs

BYTES_PER_TOKEN = 4
DEFAULT_OUTPUT_TOKENS = 512
"""Of a request that sets no limit: most answers are shorter than a model's context."""
PIXELS_PER_TOKEN = 256  # a latent token of two by two, each of eight by eight pixels
DEFAULT_PIXELS = 1024 * 1024
DEFAULT_STEPS = 8
MOST = 1e9


PHOTO_TOKENS = 3400  # of a selfie of 1024 pixels, as its worker shows it: more than vision models make of it
PHOTO_ANSWER = 2048  # tokens that such a model answers with, where nothing else is said


class _Asked(msgspec.Struct):
    """Anything may stand there: what is wrong is the worker's to refuse."""

    prompt: msgspec.Raw = msgspec.Raw()
    max_tokens: Any = None
    max_completion_tokens: Any = None
    max_output_tokens: Any = None
    n: Any = None


_asked = msgspec.json.Decoder(_Asked).decode


def estimate(body: bytes) -> float:
    """Of a JSON body; of another (a form), by its bytes."""
    try:
        asked = _asked(body)
    except NOT_JSON:
        return max(1.0, len(body) / BYTES_PER_TOKEN)
    count = _number(asked.n, 1) * _prompts(asked.prompt)
    limit = asked.max_completion_tokens or asked.max_tokens or asked.max_output_tokens
    return min(len(body) / BYTES_PER_TOKEN + count * _number(limit, DEFAULT_OUTPUT_TOKENS), MOST)


def drawing(asked: PicturesAsked) -> float:
    """The same of pictures."""
    width, height = asked.asked_size() or (DEFAULT_PIXELS, 1)
    steps = DEFAULT_STEPS if asked.steps is None else asked.steps
    count, steps = (min(max(1, each), int(MOST)) for each in (asked.count, steps))
    return min(count * max(1, width * height) / PIXELS_PER_TOKEN * steps, MOST)


def most(ability: Ability, body: bytes, context: int | None) -> Needs:
    """What a request may take at most. No token is shorter than a byte, but in a picture; an answer of no stated limit
    may fill the model's `context`, in tokens."""
    if ability == "faces":
        return Needs()  # a picture's bytes are no tokens
    asked = decoded(body, _Asked)
    count = int(_number(asked.n, 1)) * _prompts(asked.prompt)
    if ability not in ("chat", "completions", "responses"):
        return Needs(tokens=len(body))
    unlimited = context or DEFAULT_OUTPUT_TOKENS
    limit = _number(asked.max_completion_tokens or asked.max_tokens or asked.max_output_tokens, unlimited)
    prompt = len(body) if not context else context if b"image_url" in body else min(len(body), context)
    return Needs(tokens=prompt + count * int(min(limit, unlimited) if context else limit))


def photo(texts: int, answer: object) -> Needs:
    """What a vision model that is asked about a selfie may take at most: `texts` bytes and the picture, asked twice
    where the first answer does not fit, of `answer` tokens each."""
    longest = int(_number(answer, PHOTO_ANSWER))
    return Needs(tokens=2 * (texts + PHOTO_TOKENS + longest) + longest)


def _prompts(raw: msgspec.Raw) -> int:
    """How many a completion is asked for: a list of token ids is one."""
    if not bytes(raw).startswith(b"["):
        return 1
    prompts = decoded(raw, list[msgspec.Raw])
    return max(1, sum(bytes(each)[:1] in b'"[' for each in prompts))


def _number(value: object, default: float) -> float:
    """A number, also as a text: engines read both."""
    try:
        number = float(value) if isinstance(value, int | float | str) else default
    except (ValueError, OverflowError):
        return default
    return number if 0 < number < MOST else default
