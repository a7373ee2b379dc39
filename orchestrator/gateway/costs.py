"""How much work a request is, roughly, before it is done. Pure. The unit: a token, or its like in pixels and steps."""

from typing import Any

import msgspec

from core.json.text import NOT_JSON, decoded
from core.wire.images import PicturesAsked
from core.wire.workers import Ability
from orchestrator.access.limits import Needs

BYTES_PER_TOKEN = 4
DEFAULT_OUTPUT_TOKENS = 512
"""Of a request that sets no limit: most answers are shorter than a model's context."""
PIXELS_PER_TOKEN = 256  # a latent token of two by two, each of eight by eight pixels
DEFAULT_PIXELS = 1024 * 1024
DEFAULT_STEPS = 8
MOST = 1e9


PHOTO_TOKENS = 3400  # of a selfie of 1024 pixels, as its worker shows it: more than vision models make of it
PHOTO_ANSWER = 2048  # tokens that such a model answers with, where nothing else is said


LARGEST = 10**15
"""No more is set aside, whatever is asked for: more than any limit, and still a number that a database keeps."""
_LIMITS: dict[Ability, tuple[str, ...]] = {
    "chat": ("max_completion_tokens", "max_tokens"),
    "completions": ("max_tokens",),
    "responses": ("max_output_tokens",),
}
"""Where each path's engine reads how long an answer may be: the first that is not null. It ignores the others."""


class _Fields(msgspec.Struct):
    """Anything may stand there: what is wrong is the worker's to refuse."""

    prompt: msgspec.Raw = msgspec.Raw()
    max_tokens: Any = None
    max_completion_tokens: Any = None
    max_output_tokens: Any = None
    n: Any = None
    best_of: Any = None


_fields = msgspec.json.Decoder(_Fields).decode
_any = msgspec.json.Decoder().decode


def estimate(ability: Ability, body: bytes) -> float:
    """Of a JSON body; of another (a form), by its bytes."""
    try:
        asked = _fields(body)
    except NOT_JSON:
        return max(1.0, len(body) / BYTES_PER_TOKEN)
    answered = _count(ability, asked) * (_limit(ability, asked) or DEFAULT_OUTPUT_TOKENS)
    return min(len(body) / BYTES_PER_TOKEN + answered, MOST)


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
    asked = decoded(body, _Fields)
    if ability not in _LIMITS:
        return Needs(tokens=len(body))
    prompt = len(body) if not context else context if b"image_url" in body else min(len(body), context)
    return Needs(tokens=min(prompt + _longest(ability, asked, context), LARGEST))


def longest(ability: Ability, body: bytes, context: int | None) -> int:
    """How many tokens its answers may have together."""
    return _longest(ability, _fields(body), context)


def photo(texts: int, answer: object) -> Needs:
    """What a vision model that is asked about a selfie may take at most: `texts` bytes and the picture, asked twice
    where the first answer does not fit, of `answer` tokens each."""
    longest = int(_number(answer, PHOTO_ANSWER))
    return Needs(tokens=2 * (texts + PHOTO_TOKENS + longest) + longest)


def answers(n: msgspec.Raw, prompt: msgspec.Raw) -> tuple[int, int]:
    """How many answers a request wants to each of how many prompts."""
    try:
        return whole(_any(n)) or 1 if bytes(n) else 1, _prompts(prompt)
    except NOT_JSON:
        return 1, 1


def whole(value: object) -> int | None:
    """A whole number above 0 as engines read it: also a text, a float without a fraction, true. None where it is none
    of these: a request that an engine refuses, or its default."""
    try:
        number = float(value) if isinstance(value, str) and "." in value else value
        if isinstance(number, float) and not number.is_integer():
            return None
        found = int(number) if isinstance(number, str | int | float) else 0
    except (ValueError, OverflowError):
        return None
    return found if found > 0 else None


def _limit(ability: Ability, asked: _Fields) -> int | None:
    """How long the answer may be, where that is said."""
    given = (getattr(asked, name) for name in _LIMITS.get(ability, ()))
    return whole(next((value for value in given if value is not None), None))


def _longest(ability: Ability, asked: _Fields, context: int | None) -> int:
    limit = _limit(ability, asked) or context or DEFAULT_OUTPUT_TOKENS
    return min(_count(ability, asked) * (min(limit, context) if context else limit), LARGEST)


def _count(ability: Ability, asked: _Fields) -> int:
    """How many answers an engine works on."""
    if ability == "responses":
        return 1  # it reads no `n`
    if ability == "chat":
        return whole(asked.n) or 1
    return max(whole(asked.n) or 1, whole(asked.best_of) or 1) * _prompts(asked.prompt)


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
