"""Imagegen: any prompt becomes a picture that everyone may see. clean → judge at tier 0 → generate."""

import re
import unicodedata

from pydantic import Field

from core.control_tokens import COMMON
from core.errors import InvalidRequest
from orchestrator.pipelines import steps
from orchestrator.pipelines.base import DrawingAnswer, DrawingRequest, Plain, Studio
from orchestrator.pipelines.flow import Flow
from orchestrator.policy.decide import GENERAL
from orchestrator.runs.caller import Caller

NAME, PATH, ROLE = "imagegen", "/v1/imagegen", None
_MARKUP = re.compile(r"<[^<>]{0,200}>|https?://\S+")
_SPACE = re.compile(r"\s+")


class Request(DrawingRequest):
    """The body of POST /v1/imagegen."""

    prompt: str = Field(min_length=1, max_length=4000)


class Answer(DrawingAnswer):
    """The picture, and the prompt as it was drawn."""


async def run(studio: Studio, flow: Flow, request: Request, caller: Caller) -> Plain:
    prompt = clean(request.prompt)
    if not prompt:
        raise InvalidRequest("prompt: nothing is left of it.", param="prompt", code="empty_prompt")
    pictures = await flow.step(
        "generate",
        lambda key: steps.generate(
            studio,
            flow,
            caller,
            key=key,
            prompt=prompt,
            request=request,
            role=ROLE,
            original=request.prompt,
            tier=GENERAL,
        ),
    )
    return steps.drawn_answer(pictures)


def clean(prompt: str) -> str:
    """The words alone: no markup, no addresses, no invisible or control characters, nothing that a model reads as
    structure, one space between words."""
    seen = "".join(
        character if unicodedata.category(character)[0] != "C" else " " if character.isspace() else ""
        for character in unicodedata.normalize("NFC", prompt)
    )
    return _SPACE.sub(" ", COMMON.neutralised(_MARKUP.sub(" ", seen))).strip()
