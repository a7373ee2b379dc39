"""A message becomes a picture with a caption: expand → generate → caption. What 1:1, shorts and scenes have in common.

At most one engine works for a run at any time: the pictures of one run share one place at one worker, and the caption
is asked for as soon as they are there.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from orchestrator.pipelines import captions, steps
from orchestrator.pipelines.base import DrawingAnswer, DrawingRequest, Plain, StepRoute, Studio, release
from orchestrator.pipelines.flow import Flow
from orchestrator.policy import texts
from orchestrator.runs.caller import Caller


class Message(BaseModel):
    """A message, and what was said before it."""

    model_config = ConfigDict(extra="forbid")

    message: str = Field(min_length=1, max_length=4000)
    context: str | None = Field(None, max_length=8000)

    def variables(self) -> dict[str, Any]:
        return {name: value for name, value in (("message", self.message), ("context", self.context)) if value}

    def besides(self) -> list[str]:
        """What was sent, and no model is told: it is judged with the rest."""
        return []


class Request(DrawingRequest, Message):
    """The body of shorts and scenes."""


class Answer(DrawingAnswer):
    """The picture, its caption, the prompt that the expansion made, and the message in at most 25 words."""

    caption: str
    caption_source: str
    message_used: str
    safety: str
    expansion: str


class ExpandAnswer(BaseModel):
    """What the picture would show."""

    expanded_prompt: str
    message_used: str
    safety: str
    expansion: str
    release: str
    run_id: str


async def tell(studio: Studio, flow: Flow, request: Request, caller: Caller, *, recipe: str, role: str) -> Plain:
    """The whole pipeline. Cancelling it ends the step that runs, wherever it runs. Raises Refused before any GPU work
    for what was asked, and again for what the expansion made of it."""
    subject = texts.of([*request.variables().values(), *request.besides()]).subject
    expanded = await flow.step(
        "expand",
        lambda key: steps.expand(
            studio,
            caller,
            recipe=recipe,
            variables=request.variables(),
            role=role,
            key=key,
            also=request.besides(),
            subject=subject,
        ),
    )
    pictures = await flow.step(
        "generate",
        lambda key: steps.generate(
            studio,
            flow,
            caller,
            key=key,
            prompt=expanded["prompt"],
            request=request,
            role=role,
            original=request.message,
            written_by=expanded,
            tier=expanded["release_tier"],
            subject=subject,
        ),
    )
    captioned = await flow.step(
        "caption",
        lambda key: captions.caption_anyway(
            studio, caller, prompt=pictures["prompt"], message=expanded["message"], key=key
        ),
    )
    return {
        **steps.drawn_answer(pictures, expanded, captioned),
        "caption": captioned["caption"],
        "caption_source": captioned["source"],
        "message_used": expanded["message"],
        "safety": expanded["safety"],
        "expansion": expanded["source"],
    }


def expand_route(path: str, request: type[BaseModel], recipe: str, role: str) -> StepRoute:
    """The first step as a route of its own. `request` has variables() and besides()."""

    async def run(studio: Studio, request: Any, caller: Caller) -> Plain:
        variables, also = request.variables(), request.besides()
        found = await steps.expand(studio, caller, recipe=recipe, variables=variables, role=role, also=also, last=True)
        return {
            "expanded_prompt": found["prompt"],
            "message_used": found["message"],
            "safety": found["safety"],
            "expansion": found["source"],
            "release": release(found),
            "run_id": found["run"],
        }

    return StepRoute(
        path, "What the picture for a message would show, judged; nothing is drawn.", request, ExpandAnswer, run
    )
