"""The steps that pipelines are made of. Each gives plain JSON, and is judged by itself: what one let in, the next may
not draw."""

import contextlib
import hashlib
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, TypedDict

from core.db.errors import AWAY_CODES
from core.errors import ContentPolicy, Overloaded, SoundstageError, Unavailable, Upstream
from orchestrator.pipelines import drawing, expansion
from orchestrator.pipelines.base import Asked, Made, Plain, Studio, made, release
from orchestrator.pipelines.flow import Flow
from orchestrator.pipelines.shortening import words
from orchestrator.policy.floor import Subject
from orchestrator.runs.caller import Caller
from orchestrator.runs.record import Run

log = logging.getLogger(__name__)

CAPTION, FALLBACK = "caption", "caption.fallback"
CAPTION_WORDS = range(10, 16)
UNSAFE = "model/unsafe"
LONGEST_PROMPT = 8000  # characters
NOBODY = Subject()
ENGINE_TROUBLE = (Overloaded, Upstream, Unavailable)


class Cost(TypedDict):
    """What a step took from engines."""

    tokens: int
    image_steps: int


class Expanded(Made):
    """A message as the prompt of a picture. `message` is the caller's in at most 25 words."""

    prompt: str
    message: str
    safety: expansion.Safety
    source: expansion.Source
    cost: Cost


class Pictures(Made):
    """Pictures as references, each {"image_base64", "seed"}, and the prompt as it was drawn."""

    images: list[dict[str, Any]]
    prompt: str
    model: str
    tier: int
    policy: str
    constraints_added: str | None
    cost: Cost


class Captioned(Made):
    """`source`: the model's, or the fallback of the database. `asked`: how often the model was."""

    caption: str
    source: str
    asked: int
    cost: Cost


# -- expand -----------------------------------------------------------------------------------------------------------


async def expand(
    studio: Studio,
    recipe: str,
    variables: Mapping[str, Any],
    caller: Caller,
    *,
    role: str | None,
    key: str | None = None,
    also: Sequence[str] = (),
    subject: Subject = NOBODY,
    last: bool = False,
) -> Expanded:
    """What the picture for variables["message"] shall show, judged: before the model is asked and after it. `also` is
    what the caller said besides; `last`: nothing follows that would judge it again.

    Raises Refused, also where the model itself says that it is not fit to draw.
    """
    message = variables["message"]
    text, run = await _of_own(studio, recipe, variables, caller, role, key, also)
    found = expansion.read(text, message, structured="response_format" in (run.sampling or {}))
    judge = studio.recipes.judge
    look = _like(judge.begin(caller), made(run))
    if found.safety == "unsafe":
        judge.refuse(look, UNSAFE, [message, text])
    await judge.admit(
        look,
        caller,
        [message, found.message, found.prompt],
        "image",
        recipe_tier=run.release_tier,
        policy_version=run.policy_version,
        subject=subject,
        last=last,
    )
    return Expanded(
        **made(run),
        prompt=found.prompt[:LONGEST_PROMPT],
        message=found.message,
        safety=found.safety,
        source=found.source,
        cost=Cost(tokens=run.tokens, image_steps=0),
    )


async def _of_own(
    studio: Studio,
    recipe: str,
    variables: Mapping[str, Any],
    caller: Caller,
    role: str | None,
    key: str | None,
    also: Sequence[str],
) -> tuple[str, Run]:
    """A model that draws few things can have a recipe of its own, which knows them: `recipe.MODEL` goes before `recipe`
    where the database has it."""
    own = studio.engines.model_of("images", role)
    if own and await studio.recipes.has(f"{recipe}.{own}", caller):
        recipe = f"{recipe}.{own}"
    return await studio.recipes.text(recipe, variables, caller, surface="image", also=also, key=key)


# -- generate ---------------------------------------------------------------------------------------------------------


async def generate(
    studio: Studio,
    flow: Flow,
    key: str,
    prompt: str,
    asked: Asked,
    caller: Caller,
    *,
    role: str | None,
    said: str = "",
    like: Made | None = None,
    tier: int | None = None,
    subject: Subject = NOBODY,
    source: drawing.Source | None = None,
) -> Pictures:
    """Pictures of `prompt` by the pool `role`, previews told as they come. The prompt is judged with what the caller
    `said`, under `tier` at most, by the policy of the release that made it (`like`) too. Raises Refused."""
    limits = studio.recipes.judge.pictures_within_limits(caller, asked.n)
    look = judged(studio, prompt, caller, said=said, like=like, tier=tier, subject=subject)
    async with look as (run, allowed), limits as count:
        order = drawing.Order(
            prompt=allowed,
            size=asked.size or studio.default_size,
            seed=asked.seed,
            n=asked.n,
            previews=asked.previews,
            key=key,
            run=run.id,
            release=release(like) if like else "",
            source=source,
        )
        drawn = await drawing.draw(studio, flow, order, caller, role, count)
        run.model, run.worker, run.seed = drawn.model, drawn.worker, drawn.images[0]["seed"]
    return Pictures(
        **made(run),
        images=drawn.images,
        prompt=allowed,
        model=drawn.model,
        tier=run.tier,
        policy=run.policy,
        constraints_added=run.constraints_added,
        cost=Cost(tokens=0, image_steps=drawn.steps),
    )


@contextlib.asynccontextmanager
async def judged(
    studio: Studio,
    prompt: str,
    caller: Caller,
    *,
    said: str,
    like: Made | None,
    tier: int | None = None,
    subject: Subject = NOBODY,
) -> AsyncIterator[tuple[Run, str]]:
    """A run for one image step: the prompt judged together with what the caller said, since a model can put in what
    the caller left out. Yields the run and the prompt as it may be sent, constraints appended. Raises Refused."""
    judge = studio.recipes.judge
    run = judge.begin(caller)
    if like is not None:
        _like(run, like)
    decision = await judge.admit(
        run,
        caller,
        [said, prompt],
        "image",
        recipe_tier=tier,
        policy_version=like["policy_version"] if like is not None else None,
        subject=subject,
    )
    if decision.constraints:
        run.constraints_added = decision.constraints
        prompt = f"{prompt} {decision.constraints}"
    run.output_sha256 = hashlib.sha256(prompt.encode()).hexdigest()
    status = 502
    try:
        yield run, prompt
        status = 200
    finally:
        judge.settle(run, status)


def _like(run: Run, like: Made) -> Run:
    run.recipe, run.version, run.release_sha256 = like["recipe"], like["version"], like["release_sha256"]
    return run


# -- caption ----------------------------------------------------------------------------------------------------------


async def caption(
    studio: Studio, prompt: str, message: str | None, caller: Caller, key: str | None = None
) -> Captioned:
    """Ten to fifteen words about a picture, fit for everyone: checked, asked for again once, then the fallback that
    the database holds. Raises Refused, and what an engine that cannot answer makes of it."""
    variables = {"prompt": prompt[:LONGEST_PROMPT]} | ({"message": message} if message else {})
    tokens = 0
    for asked in (1, 2):
        text, run = await studio.recipes.text(CAPTION, variables, caller, key=key and f"{key}:{asked}")
        tokens += run.tokens
        if await _is_caption(studio, text, caller):
            cost = Cost(tokens=tokens, image_steps=0)
            return Captioned(**made(run), caption=text, source="model", asked=asked, cost=cost)
    return await _fallback(studio, caller, asked, tokens)


async def caption_anyway(
    studio: Studio, prompt: str, message: str | None, caller: Caller, key: str | None = None
) -> Captioned:
    """The same, where a picture waits for it: an engine that cannot answer takes nothing from the picture, and what was
    drawn above tier 0 is not told at tier 0."""
    try:
        return await caption(studio, prompt, message, caller, key)
    except ContentPolicy:
        return await _fallback(studio, caller, 0, 0)
    except ENGINE_TROUBLE as exc:
        if exc.code in AWAY_CODES:
            raise  # it comes back, and the fallback is there, too
        log.warning("no caption by the model", extra={"request_id": caller.request_id, "reason": exc.message})
        return await _fallback(studio, caller, 1, 0)


async def _fallback(studio: Studio, caller: Caller, asked: int, tokens: int) -> Captioned:
    """Raises SoundstageError where the database holds none that is fit."""
    messages, _, run = await studio.recipes.rendered(FALLBACK, {}, caller)
    studio.recipes.judge.settle(run, 200)
    text = messages[-1]["content"].strip()
    if not await _is_caption(studio, text, caller):
        raise SoundstageError(f"The recipe `{FALLBACK}` holds no caption that is fit.", code="no_caption")
    cost = Cost(tokens=tokens, image_steps=0)
    return Captioned(**made(run), caption=text, source="fallback", asked=asked, cost=cost)


async def _is_caption(studio: Studio, text: str, caller: Caller) -> bool:
    """Whether it has ten to fifteen words and is fit for everyone: allowed at tier 0 without any softening."""
    if len(text.split()) not in CAPTION_WORDS or len(words(text)) not in CAPTION_WORDS or "\n" in text:
        return False
    judge = studio.recipes.judge
    try:
        found = await judge.admit(judge.begin(caller), caller, [text], "image", recipe_tier=0)
    except ContentPolicy:
        return False
    return found.action == "allow"


# -- the answer -------------------------------------------------------------------------------------------------------


def drawn_answer(pictures: Pictures, *words_of: Made) -> Plain:
    """What every pipeline that draws answers (base.Drawn); `words_of` are its other steps, those before it first."""
    images = pictures["images"]
    return {
        "image_base64": images[0]["image_base64"],
        "images": images if len(images) > 1 else None,
        "prompt_used": pictures["prompt"],
        "run_id": pictures["run"],
        "model": pictures["model"],
        "seed": images[0]["seed"],
        "releases": [release(step) for step in words_of],
        "policy": pictures["policy"],
        "constraints_added": pictures["constraints_added"],
        "runs": [*(step["run"] for step in words_of[:1]), pictures["run"], *(step["run"] for step in words_of[1:])],
    }
