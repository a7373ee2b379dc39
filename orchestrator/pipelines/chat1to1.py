"""1:1: a chat message becomes a picture with a caption. expand → generate → caption."""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from core.errors import InvalidRequest
from orchestrator.oversight import Caller
from orchestrator.pipelines.base import Studio, expanded, generate, judged

EXPAND, CAPTION = "chat1to1.expand", "caption"
POOL = "chat1to1"
CONTEXT_TURNS, CONTEXT_CHARACTERS = 6, 4000


class Turn(BaseModel):
    """One turn of the conversation so far."""

    model_config = ConfigDict(extra="forbid")

    role: str = Field(pattern="^(system|user|assistant)$")
    content: str = Field(max_length=8000)


class ImageRequest(BaseModel):
    """The body of POST /v1/chat/1to1/imagegen: a message, and what was said before as `messages` or `context`."""

    model_config = ConfigDict(extra="forbid")

    message: str = Field(min_length=1, max_length=4000)
    messages: list[Turn] | None = Field(None, max_length=64)
    context: str | None = Field(None, max_length=8000)
    persona: str | None = Field(None, max_length=1000)
    size: str | None = Field(None, pattern=r"^[1-9]\d{1,3}x[1-9]\d{1,3}$")
    seed: int | None = Field(None, ge=0, le=2**63 - 1)


class ImageAnswer(BaseModel):
    """The picture as base64 PNG, its caption, and the prompt that the expansion made."""

    image_base64: str
    caption: str
    prompt_used: str
    run_id: str
    model: str
    releases: list[str]
    policy: str
    constraints_added: str | None
    runs: list[str]


async def imagegen(studio: Studio, request: ImageRequest, caller: Caller) -> ImageAnswer:
    """The whole pipeline. Cancelling it ends the step that runs, wherever it runs. Raises Refused before any GPU work
    for what was asked, and again for what the expansion made of it."""
    if request.messages is not None and request.context is not None:
        raise InvalidRequest("Send `messages` or `context`, not both.", param="context", code="both_contexts")
    context = request.context if request.messages is None else _said(request.messages)
    variables: dict[str, Any] = {"message": request.message, "context": context, "persona": request.persona}
    given = {name: value for name, value in variables.items() if value}
    description, step = await expanded(studio, EXPAND, given, caller, role=POOL)
    prompt = description or request.message
    async with judged(studio, prompt, caller, said=request.message, like=step) as (run, prompt):
        picture = await generate(
            studio,
            prompt,
            role=POOL,
            request_id=caller.request_id,
            run_id=run.id,
            release=f"{step.recipe}@{step.version}",
            size=request.size,
            seed=request.seed,
        )
        run.model, run.seed = picture.model, request.seed
    caption, captioned = await studio.recipes.text(CAPTION, {"prompt": prompt, "message": request.message}, caller)
    return ImageAnswer(
        image_base64=picture.b64,
        caption=caption,
        prompt_used=prompt,
        run_id=run.id,
        model=picture.model,
        releases=[f"{step.recipe}@{step.version}", f"{captioned.recipe}@{captioned.version}"],
        policy=run.policy,
        constraints_added=run.constraints_added,
        runs=[step.id, run.id, captioned.id],
    )


def _said(messages: Sequence[Turn]) -> str:
    """The last turns as text, the oldest cut first."""
    spoken = [f"{turn.role}: {turn.content}" for turn in messages if turn.role != "system"]
    return "\n".join(spoken[-CONTEXT_TURNS:])[-CONTEXT_CHARACTERS:]
