"""Postcard: a place becomes a picture that everyone may see. expand → generate."""

from pathlib import Path

from pydantic import Field

from orchestrator.pipelines import steps
from orchestrator.pipelines.base import DrawingAnswer, DrawingRequest, Plain, Studio
from orchestrator.pipelines.flow import Flow
from orchestrator.runs.caller import Caller

NAME, PATH, ROLE = "postcard", "/v1/postcards", "scenes"
RECIPES = Path(__file__).with_name("recipes")


class Request(DrawingRequest):
    """The body of POST /v1/postcards."""

    place: str = Field(min_length=1, max_length=200)


class Answer(DrawingAnswer):
    """The picture, and the prompt that the expansion made."""


async def run(studio: Studio, flow: Flow, request: Request, caller: Caller) -> Plain:
    variables = {"message": request.place}
    words = await flow.step(
        "expand",
        lambda key: steps.expand(studio, caller, recipe="postcard.expand", variables=variables, role=ROLE, key=key),
    )
    pictures = await flow.step(
        "generate",
        lambda key: steps.generate(
            studio,
            flow,
            caller,
            key=key,
            prompt=words["prompt"],
            request=request,
            role=ROLE,
            original=request.place,
            written_by=words,
            tier=words["release_tier"],
        ),
    )
    return steps.drawn_answer(pictures, words)
