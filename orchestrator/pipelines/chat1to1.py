"""1:1: a chat message becomes a picture with a caption. expand → generate → caption."""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from core.errors import InvalidRequest
from orchestrator.pipelines import captions, story
from orchestrator.pipelines.base import Plain, StepRoute, Studio, Turn, release
from orchestrator.pipelines.flow import Flow
from orchestrator.pipelines.story import Answer, Message, expand_route, tell
from orchestrator.runs.caller import Caller

__all__ = ["Answer", "Request"]

NAME, PATH, ROLE = "chat1to1", "/v1/chat/1to1/imagegen", "chat1to1"
EXPAND = "chat1to1.expand"
WARM = (EXPAND, captions.CAPTION)
CONTEXT_TURNS, CONTEXT_CHARACTERS = 6, 4000


class ChatMessage(Message):
    """A message, what was said before as `messages` or `context`, and who sends the picture."""

    messages: list[Turn] | None = Field(None, max_length=64)
    persona: str | None = Field(None, max_length=1000)

    @model_validator(mode="after")
    def _one_context(self) -> "ChatMessage":
        if self.messages is not None and self.context is not None:
            raise InvalidRequest("Send `messages` or `context`, not both.", param="context", code="both_contexts")
        return self

    def variables(self) -> dict[str, Any]:
        context = self.context if self.messages is None else _spoken(self.messages)
        given = {"message": self.message, "context": context, "persona": self.persona}
        return {name: value for name, value in given.items() if value}

    def besides(self) -> list[str]:
        return [turn.content for turn in self.messages or ()]


class Request(ChatMessage, story.Request):
    """The body of POST /v1/chat/1to1/imagegen."""


async def run(studio: Studio, flow: Flow, request: Request, caller: Caller) -> Plain:
    return await tell(studio, flow, request, caller, recipe=EXPAND, role=ROLE)


def _spoken(messages: Sequence[Turn]) -> str:
    """The last turns as text, the oldest cut first."""
    spoken = [f"{turn.role}: {turn.content}" for turn in messages if turn.role != "system"]
    return "\n".join(spoken[-CONTEXT_TURNS:])[-CONTEXT_CHARACTERS:]


# -- the caption alone ------------------------------------------------------------------------------------------------


class CaptionRequest(BaseModel):
    """What a picture shows, and the message that it answers."""

    model_config = ConfigDict(extra="forbid")

    prompt: str = Field(min_length=1, max_length=8000)
    message: str | None = Field(None, min_length=1, max_length=4000)


class CaptionAnswer(BaseModel):
    """Ten to fifteen words about a picture, fit for everyone."""

    caption: str
    caption_source: str
    release: str
    run_id: str


async def _caption(studio: Studio, request: CaptionRequest, caller: Caller) -> Plain:
    found = await captions.caption(studio, caller, prompt=request.prompt, message=request.message)
    return {
        "caption": found["caption"],
        "caption_source": found["source"],
        "release": release(found),
        "run_id": found["run"],
    }


SINGLE = (
    expand_route("/v1/chat/1to1/expand", ChatMessage, EXPAND, ROLE),
    StepRoute("/v1/chat/1to1/caption", CaptionAnswer.__doc__ or "", CaptionRequest, CaptionAnswer, _caption),
)
