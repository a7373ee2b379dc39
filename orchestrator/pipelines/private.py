"""Private: the caller's own prompt becomes a picture, under the tier of their key. judge → generate.

What is hard is refused; what is soft gets the policy's constraints appended, visibly. At tier 2 nothing is softened.
"""

from pydantic import Field

from orchestrator.pipelines import steps
from orchestrator.pipelines.base import DrawingAnswer, DrawingRequest, Plain, Studio
from orchestrator.pipelines.flow import Flow
from orchestrator.runs.caller import Caller

NAME, PATH, ROLE = "private", "/v1/chat/private/imagegen", "chat1to1"


class Request(DrawingRequest):
    """The body of POST /v1/chat/private/imagegen."""

    prompt: str = Field(min_length=1, max_length=4000)


class Answer(DrawingAnswer):
    """The picture, and the prompt as it was drawn."""


async def run(studio: Studio, flow: Flow, request: Request, caller: Caller) -> Plain:
    pictures = await flow.step(
        "generate",
        lambda key: steps.generate(studio, flow, caller, key=key, prompt=request.prompt, request=request, role=ROLE),
    )
    return steps.drawn_answer(pictures)
