"""Profile: a selfie becomes an avatar. analyze and describe → prompt → generate.

The subject is real, so everything is judged at tier 0, whatever the key. Of the selfie only a hash is kept.
"""

import base64
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from core.errors import InvalidRequest, Upstream
from orchestrator import selfies
from orchestrator.likenesses import Likenesses
from orchestrator.oversight import Caller
from orchestrator.pipelines.base import Picture, Studio, generate, judged, only_image
from orchestrator.policy_floor import Subject
from orchestrator.runs import Run
from orchestrator.selfies import Question, Seen, Selfie

DESCRIBE, REPAIR, AVATAR = "profile.describe", "profile.repair", "profile.avatar"
POOL = "profile"
REAL = Subject(real=True)
NOTHING = frozenset(("unknown", "none", ""))


class ProfileRequest(BaseModel):
    """The fields of POST /v1/profile/create beside the picture."""

    model_config = ConfigDict(extra="forbid")

    consent: bool = Field(False, description="The person in the picture agrees that it is used for this.")
    style: str | None = Field(None, min_length=1, max_length=200)
    presentation: Literal["person", "woman", "man"] = Field(
        "person", description="How the person wants to be shown; it is never guessed."
    )
    size: str | None = Field(None, pattern=r"^[1-9]\d{1,3}x[1-9]\d{1,3}$")
    seed: int | None = Field(None, ge=0, le=2**63 - 1)
    strength: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Start from the selfie and go this far from it; unset: start from nothing.",
    )


class ProfileAnswer(BaseModel):
    """The avatar as base64 PNG, what was read from the selfie, and the prompt that was made of it."""

    image_base64: str
    features: dict[str, Any]
    face: dict[str, Any]
    warnings: list[Any]
    prompt_used: str
    run_id: str
    likeness: str
    tier: int
    strength_used: float | None
    model: str
    releases: list[str]
    policy: str
    constraints_added: str | None
    runs: list[str]


async def create(
    studio: Studio,
    likenesses: Likenesses,
    request: ProfileRequest,
    selfie: Selfie,
    caller: Caller,
    *,
    strength_max: float,
) -> ProfileAnswer:
    """The whole pipeline. The selfie is wiped as soon as it was looked at, however that ends; the caller wipes it too.
    Cancelling ends the step that runs. Raises Forbidden (likeness_revoked), Refused, and what a worker refuses."""
    if not request.consent:
        raise InvalidRequest("consent: the person's consent is required.", param="consent", code="consent_required")
    strength = None if request.strength is None else min(request.strength, strength_max)
    await likenesses.refuse_revoked(caller.key, selfie.sha256)
    with selfie:
        seen, described = await look(studio, selfie, caller, portrait=strength is not None)
    likeness = await likenesses.consented(caller.key, selfie.sha256)
    subject = Subject(real=True, age=seen.apparent_age)
    variables: dict[str, Any] = {"features": told(seen), "presentation": request.presentation}
    variables |= {"style": request.style} if request.style else {}
    text, step = await studio.recipes.text(AVATAR, variables, caller, surface="image", subject=subject)
    prompt = text or ", ".join([request.presentation, *(one["value"] for one in told(seen))])
    async with judged(studio, prompt, caller, said=request.style or "", like=step, subject=subject) as (run, prompt):
        await likenesses.refuse_revoked(caller.key, selfie.sha256)  # it may have been taken back meanwhile
        picture = await draw(studio, prompt, request, seen.portrait, strength, step, run, caller)
        run.model, run.seed = picture.model, request.seed
    made = [one for one in (described, step, run) if one is not None]
    return ProfileAnswer(
        image_base64=picture.b64,
        features={name: vars_of(one) for name, one in seen.features.items()},
        face=seen.face,
        warnings=seen.warnings,
        prompt_used=prompt,
        run_id=run.id,
        likeness=likeness,
        tier=run.tier,
        strength_used=strength,
        model=picture.model,
        releases=[f"{one.recipe}@{one.version}" for one in made if one is not run],
        policy=run.policy,
        constraints_added=run.constraints_added,
        runs=[one.id for one in made],
    )


async def look(studio: Studio, selfie: Selfie, caller: Caller, *, portrait: bool) -> tuple[Seen, Run | None]:
    """Analyze, and describe where the worker has a vision model; then its run, proved and recorded, else None."""
    messages, release, run = await studio.recipes.rendered(DESCRIBE, {}, caller, subject=REAL)
    repair, _, _ = await studio.recipes.rendered(REPAIR, {}, caller, subject=REAL)
    sampling = dict(release.sampling)
    try:
        schema = sampling.pop("response_format")["json_schema"]["schema"]
    except (KeyError, TypeError) as exc:
        raise Upstream(f"The release {release.name} holds no schema.", code="no_schema") from exc
    question = Question(messages, schema, sampling, repair[-1]["content"])
    seen = await selfies.analyze(studio.engines, selfie, question, caller.request_id, portrait=portrait)
    if seen.vision_model is None:
        return seen, None
    run.model, run.worker, run.sampling = seen.vision_model, seen.worker, sampling
    status = 502
    try:
        studio.recipes.oversight.compare(run, seen.messages_sha256)
        status = 200
    finally:
        studio.recipes.oversight.settle(run, status)
    return seen, run


def told(seen: Seen) -> list[dict[str, str]]:
    """The features that say something, as names and values for a recipe."""
    said = {name: str(one.value) for name, one in seen.features.items() if not isinstance(one.value, bool)}
    said |= {name: "yes" for name, one in seen.features.items() if one.value is True}
    shown = [(name, value) for name, value in said.items() if value.lower() not in NOTHING]
    return [{"name": name.replace("_", " ")[:40], "value": value[:80]} for name, value in shown][:40]


async def draw(
    studio: Studio,
    prompt: str,
    request: ProfileRequest,
    portrait: str | None,
    strength: float | None,
    step: Run,
    run: Run,
    caller: Caller,
) -> Picture:
    """The avatar: from nothing, or from the portrait that the selfie worker cut out and cleaned."""
    release = f"{step.recipe}@{step.version}"
    if strength is None or portrait is None:
        return await generate(
            studio,
            prompt,
            role=POOL,
            request_id=caller.request_id,
            run_id=run.id,
            release=release,
            size=request.size,
            seed=request.seed,
        )
    extra: dict[str, Any] = {"strength": strength} | ({} if request.seed is None else {"seed": request.seed})
    async with studio.engines.engine(None, "image_edits", caller.request_id, POOL, **caller.place) as (
        client,
        model,
        _,
    ):
        answer = await client.images.edit(
            image=("portrait.jpg", base64.b64decode(portrait), "image/jpeg"),
            model=model,
            prompt=prompt,
            size=request.size or studio.default_size,
            extra_body=extra,
            extra_headers={"x-soundstage-run": run.id, "x-soundstage-release": release},
        )
    return only_image(answer, model)


def vars_of(feature: selfies.Feature) -> dict[str, Any]:
    return {"value": feature.value, "confidence": feature.confidence, "source": feature.source}
