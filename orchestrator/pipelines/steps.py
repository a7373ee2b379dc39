"""The steps that pipelines are made of. Each gives plain JSON, and is judged by itself: what one let in, the next may
not draw."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from orchestrator.pipelines import drawing, expansion
from orchestrator.pipelines.base import DrawingRequest, Plain, StepRecord, Studio, record_of, release
from orchestrator.pipelines.flow import Flow
from orchestrator.policy.floor import Subject
from orchestrator.runs.call import Call
from orchestrator.runs.caller import Caller
from orchestrator.runs.record import Run

UNSAFE = "model/unsafe"
LONGEST_PROMPT = 8000  # characters
NOBODY = Subject()


class Cost(TypedDict):
    """What a step took from engines."""

    tokens: int
    image_steps: int


class ExpandResult(StepRecord):
    """A message as the prompt of a picture. `message` is the caller's in at most 25 words."""

    prompt: str
    message: str
    safety: expansion.Safety
    source: expansion.Source
    cost: Cost


class DrawResult(StepRecord):
    """Pictures as references, each {"image_base64", "seed"}, and the prompt as it was drawn."""

    images: list[dict[str, Any]]
    prompt: str
    model: str
    tier: int
    policy: str
    constraints_added: str | None
    cost: Cost


# -- expand -----------------------------------------------------------------------------------------------------------


async def expand(
    studio: Studio,
    caller: Caller,
    *,
    recipe: str,
    variables: Mapping[str, Any],
    role: str | None,
    key: str | None = None,
    also: Sequence[str] = (),
    subject: Subject = NOBODY,
    last: bool = False,
) -> ExpandResult:
    """What the picture for variables["message"] shall show, judged: before the model is asked and after it. `also` is
    what the caller said besides; `last`: nothing follows that would judge it again. Raises Refused, also where the
    model itself says that it is not fit to draw."""
    message = variables["message"]
    recipe = await _recipe_of_model(studio, recipe, role, caller)
    text, run = await studio.recipes.text(recipe, variables, caller, surface="image", also=also, key=key)
    found = expansion.read(text, message, structured="response_format" in (run.sampling or {}))
    async with studio.recipes.judge.call(caller, recorded=False) as look:
        _take_release(look.run, record_of(run))
        if found.safety == "unsafe":
            look.refuse(UNSAFE, [message, text])
        await look.judge(
            [message, found.message, found.prompt],
            "image",
            recipe_tier=run.release_tier,
            policy_version=run.policy_version,
            subject=subject,
            last=last,
        )
    return ExpandResult(
        **record_of(run),
        prompt=found.prompt[:LONGEST_PROMPT],
        message=found.message,
        safety=found.safety,
        source=found.source,
        cost=Cost(tokens=run.tokens, image_steps=0),
    )


async def _recipe_of_model(studio: Studio, recipe: str, role: str | None, caller: Caller) -> str:
    """A model that draws few things can have a recipe of its own, which knows them: `recipe.MODEL` goes before `recipe`
    where the database has it."""
    model = studio.engines.model_of("images", role)
    own = f"{recipe}.{model}"
    return own if model and await studio.recipes.has(own, caller) else recipe


# -- generate ---------------------------------------------------------------------------------------------------------


async def generate(
    studio: Studio,
    flow: Flow,
    caller: Caller,
    *,
    key: str,
    prompt: str,
    request: DrawingRequest,
    role: str | None,
    original: str = "",
    written_by: StepRecord | None = None,
    tier: int | None = None,
    subject: Subject = NOBODY,
    source: drawing.SourceImage | None = None,
) -> DrawResult:
    """Pictures of `prompt` by the pool `role`, previews told as they come. The prompt is judged with the caller's
    `original` words, under `tier` at most, by the policy of the release that made it (`written_by`) too. Raises
    Refused."""
    async with studio.recipes.judge.call(caller) as call:
        run = call.run
        allowed = await _allowed(call, prompt, original=original, written_by=written_by, tier=tier, subject=subject)
        await call.limit_pictures(request.n)
        order = drawing.Order(
            prompt=allowed,
            size=request.size or studio.default_size,
            seed=request.seed,
            n=request.n,
            previews=request.previews,
            key=key,
            run=run.id,
            release=release(written_by) if written_by else "",
            source=source,
        )
        drawn = await drawing.DrawingCall(studio, flow, order=order, caller=caller, role=role, work=call.work).draw()
        run.model, run.worker, run.seed = drawn.model, drawn.worker, drawn.images[0]["seed"]
    return DrawResult(
        **record_of(run),
        images=drawn.images,
        prompt=allowed,
        model=drawn.model,
        tier=run.tier,
        policy=run.policy,
        constraints_added=run.constraints_added,
        cost=Cost(tokens=0, image_steps=drawn.steps),
    )


async def _allowed(
    call: Call, prompt: str, *, original: str, written_by: StepRecord | None, tier: int | None, subject: Subject
) -> str:
    """The prompt as it may be sent, constraints appended: judged together with what the caller said, since a model can
    put in what the caller left out. Raises Refused."""
    run = call.run
    version = None
    if written_by is not None:
        _take_release(run, written_by)
        version = written_by["policy_version"]
    decision = await call.judge([original, prompt], "image", recipe_tier=tier, policy_version=version, subject=subject)
    if decision.constraints:
        run.constraints_added = decision.constraints
        prompt = f"{prompt} {decision.constraints}"
    run.output_sha256 = hashlib.sha256(prompt.encode()).hexdigest()
    return prompt


def _take_release(run: Run, of: StepRecord) -> None:
    run.recipe, run.version, run.release_sha256 = of["recipe"], of["version"], of["release_sha256"]


# -- the answer -------------------------------------------------------------------------------------------------------


def drawn_answer(pictures: DrawResult, *words_of: StepRecord) -> Plain:
    """What every pipeline that draws answers (base.DrawingAnswer). `words_of`: its other steps, the first first."""
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
