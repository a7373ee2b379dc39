"""A caption of a picture: ten to fifteen words, fit for everyone."""

import logging

from core.db.errors import AWAY_CODES
from core.errors import ContentPolicy, Overloaded, SoundstageError, Unavailable, Upstream
from orchestrator.pipelines.base import StepRecord, Studio, record_of
from orchestrator.pipelines.shortening import words
from orchestrator.pipelines.steps import LONGEST_PROMPT, Cost
from orchestrator.runs.caller import Caller

log = logging.getLogger(__name__)

CAPTION, FALLBACK = "caption", "caption.fallback"
CAPTION_WORDS = range(10, 16)
ENGINE_TROUBLE = (Overloaded, Upstream, Unavailable)


class CaptionResult(StepRecord):
    """`source`: the model's, or the fallback of the database. `asked`: how often the model was."""

    caption: str
    source: str
    asked: int
    cost: Cost


async def caption(
    studio: Studio, caller: Caller, *, prompt: str, message: str | None, key: str | None = None
) -> CaptionResult:
    """Ten to fifteen words about a picture, fit for everyone: checked, asked for again once, then the fallback that
    the database holds. Raises Refused, and what an engine that cannot answer makes of it."""
    variables = {"prompt": prompt[:LONGEST_PROMPT]} | ({"message": message} if message else {})
    tokens = 0
    for asked in (1, 2):
        text, run = await studio.recipes.text(CAPTION, variables, caller, key=key and f"{key}:{asked}")
        tokens += run.tokens
        if await _is_caption(studio, text, caller):
            cost = Cost(tokens=tokens, image_steps=0)
            return CaptionResult(**record_of(run), caption=text, source="model", asked=asked, cost=cost)
    return await _fallback(studio, caller, asked, tokens)


async def caption_anyway(
    studio: Studio, caller: Caller, *, prompt: str, message: str | None, key: str | None = None
) -> CaptionResult:
    """The same, where a picture waits for it: an engine that cannot answer takes nothing from the picture, and what was
    drawn above tier 0 is not told at tier 0."""
    try:
        return await caption(studio, caller, prompt=prompt, message=message, key=key)
    except ContentPolicy:
        return await _fallback(studio, caller, 0, 0)
    except ENGINE_TROUBLE as exc:
        if exc.code in AWAY_CODES:
            raise  # it comes back, and the fallback is there, too
        log.warning("no caption by the model", extra={"request_id": caller.request_id, "reason": exc.message})
        return await _fallback(studio, caller, 1, 0)


async def _fallback(studio: Studio, caller: Caller, asked: int, tokens: int) -> CaptionResult:
    """Raises SoundstageError where the database holds none that is fit."""
    async with studio.recipes.judge.call(caller) as call:
        messages, _ = await studio.recipes.rendered(call, FALLBACK, {})
    text = messages[-1]["content"].strip()
    if not await _is_caption(studio, text, caller):
        raise SoundstageError(f"The recipe `{FALLBACK}` holds no caption that is fit.", code="no_caption")
    cost = Cost(tokens=tokens, image_steps=0)
    return CaptionResult(**record_of(call.run), caption=text, source="fallback", asked=asked, cost=cost)


async def _is_caption(studio: Studio, text: str, caller: Caller) -> bool:
    """Whether it has ten to fifteen words and is fit for everyone: allowed at tier 0 without any softening."""
    if len(text.split()) not in CAPTION_WORDS or len(words(text)) not in CAPTION_WORDS or "\n" in text:
        return False
    try:
        async with studio.recipes.judge.call(caller, recorded=False) as look:
            found = await look.judge([text], "image", recipe_tier=0)
    except ContentPolicy:
        return False
    return found.action == "allow"
