"""POST /v1/moderations, in OpenAI's shape: what the floor and the lists of the policy in force say of a text."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field

from core.errors import ContentPolicy
from core.trace_context import traceparent
from orchestrator.access.dependencies import needs
from orchestrator.access.keys import Key, Keys
from orchestrator.policy import decide as policy
from orchestrator.policy import floor, texts
from orchestrator.policy.floor import Subject
from orchestrator.policy.guard import Guard
from orchestrator.policy.store import PolicyUnavailableError
from orchestrator.runs.judge import Judge, in_turns
from orchestrator.runs.record import new_run_id

# OpenAI's categories; what the studio has no list for is never flagged.
CATEGORIES = (
    *("sexual", "sexual/minors", "harassment", "harassment/threatening", "hate", "hate/threatening", "illicit"),
    *("illicit/violent", "self-harm", "self-harm/intent", "self-harm/instructions", "violence", "violence/graphic"),
)


Text = Annotated[str, Field(max_length=100_000)]


class Part(BaseModel):
    """A part of a multi-modal input. A picture is not looked at here: it may show somebody."""

    model_config = ConfigDict(extra="allow")

    type: str
    text: str | None = Field(None, max_length=100_000)


class ModerationRequest(BaseModel):
    """`tier` is the tier to judge at; the key's own where none is given."""

    input: Text | Annotated[list[Text | Part], Field(max_length=1000)] = Field()
    model: str | None = None
    tier: int | None = Field(None, ge=0, le=2)


def router(keys: Keys, judge: Judge, guard: Guard | None) -> APIRouter:
    api = APIRouter(tags=["policy"])
    chat_key = Annotated[Key, Depends(needs(keys, "chat"))]

    @api.post("/v1/moderations")
    async def moderations(body: ModerationRequest, request: Request, key: chat_key) -> dict[str, Any]:
        """One result for each text, with the guard's opinion where there is one."""
        try:
            standing = await judge.standing(key.tenant)
        except PolicyUnavailableError as exc:
            raise ContentPolicy("The check failed, so the answer is no.", code=policy.CHECK_FAILED) from exc
        tier = policy.tier_in_force(key.max_tier, standing.max_tier, body.tier)
        rules, subject = standing.rules, _subject(body)
        found = [
            await in_turns(policy.deciding([text], tier=tier, surface="text", rules=rules, subject=subject))
            for text in _texts(body)
        ]
        if guard is not None:
            for at, (text, decision) in enumerate(zip(_texts(body), found, strict=True)):
                if decision.action != "refuse" and text:
                    who = key.tenant, request.scope["request_id"], traceparent(request.headers.get("traceparent"))
                    found[at] = await guard.opinion(decision, [text], *who)
        return {
            "id": new_run_id().replace("run_", "modr_"),
            "model": f"soundstage-floor-{floor.version()}",
            "results": [_result(decision) for decision in found],
        }

    return api


def _texts(body: ModerationRequest) -> list[str]:
    given = [body.input] if isinstance(body.input, str) else body.input
    return [part if isinstance(part, str) else part.text or "" for part in given]


def _subject(body: ModerationRequest) -> Subject:
    return texts.of(body.model_dump()["input"]).subject


def _result(decision: policy.Decision) -> dict[str, Any]:
    flagged = decision.action == "refuse"
    categories = dict.fromkeys(CATEGORIES, False)
    if flagged and decision.category:
        categories[decision.category] = True
        categories["sexual"] = categories["sexual"] or decision.category.startswith("sexual/")
    return {
        "flagged": flagged,
        "categories": categories,
        "category_scores": {name: float(hit) for name, hit in categories.items()},
        "category_applied_input_types": {name: ["text"] for name in categories},
        "decision": decision.action,
        "category": decision.category,
        "tier": decision.tier,
    }
