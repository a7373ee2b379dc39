"""What a model made of a message: the prompt, the message made short, and whether it is fit to draw. Pure.

A release whose sampling asks for JSON (`response_format`) gives all three in one answer, as {"intent", "prompt",
"safety"}. Another gives the prompt alone, as text. Where a model cannot, the message itself is drawn.
"""

from dataclasses import dataclass
from typing import Literal

import msgspec

from orchestrator.pipelines import shortening

Source = Literal["model", "text", "message"]
Safety = Literal["safe", "unsafe", "unknown"]


@dataclass(frozen=True)
class Expansion:
    """`source`: the model gave all three, gave the prompt as text, or gave nothing that can be used."""

    prompt: str
    message: str  # at most 25 words
    safety: Safety
    source: Source


class _Answer(msgspec.Struct):
    prompt: str
    intent: str = ""
    safety: Safety = "unknown"


_answer = msgspec.json.Decoder(_Answer).decode


def read(text: str, message: str, *, structured: bool) -> Expansion:
    """Of a model's answer to `message`; `structured`: it was asked for JSON."""
    if not structured:
        short = shortening.shorten(message)
        return Expansion(text, short, "unknown", "text") if text else Expansion(short, short, "unknown", "message")
    try:
        answer = _answer(text)
    except msgspec.DecodeError:
        answer = _Answer("")
    intent = answer.intent.strip()
    if not shortening.is_long(message):
        short = message
    else:
        short = intent if shortening.keeps(intent, message) else shortening.shorten(message)
    prompt = answer.prompt.strip()
    return Expansion(prompt or short, short, answer.safety, "model" if prompt else "message")
