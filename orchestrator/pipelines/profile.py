"""Profile: a selfie becomes an avatar. analyze and describe, then prompt → generate.

The subject is real, so everything is judged at tier 0, whatever the key. The selfie is looked at before the run begins
and then wiped: of it only a hash is kept. A portrait to draw on is held in memory alone.
"""

import base64
from typing import Any, Literal

from pydantic import BaseModel, Field

from core.errors import InvalidRequest, Upstream
from core.usage import stated
from orchestrator.gateway import selfies
from orchestrator.gateway.selfies import Question, Selfie, SelfieAnswer
from orchestrator.pipelines import steps
from orchestrator.pipelines.base import DrawingAnswer, DrawingRequest, Plain, StepRecord, Studio, record_of, release
from orchestrator.pipelines.drawing import SourceImage
from orchestrator.pipelines.flow import Flow
from orchestrator.policy.floor import Subject
from orchestrator.runs.call import Call
from orchestrator.runs.caller import Caller
from orchestrator.runs.record import Run

NAME, PATH, ROLE = "profile", "/v1/profile/create", "profile"
FORM = True
DESCRIBE, REPAIR, AVATAR = "profile.describe", "profile.repair", "profile.avatar"
WARM = (AVATAR,)
PORTRAIT = "portrait"
REAL = Subject(real=True)
NOTHING = frozenset(("unknown", "none", ""))


class Options(DrawingRequest):
    """The fields of POST /v1/profile/create beside the picture."""

    consent: bool = Field(False, description="The person in the picture agrees that it is used for this.")
    style: str | None = Field(None, min_length=1, max_length=200)
    presentation: Literal["person", "woman", "man"] = Field(
        "person", description="How the person wants to be shown; it is never guessed."
    )
    strength: float | None = Field(
        None, gt=0, le=1, description="Start from the selfie and go this far from it; unset: start from nothing."
    )


class ProfileCall(Options):
    """A call as it comes: the options, and which selfie they are for."""

    selfie: str

    def identity(self) -> dict[str, Any]:
        """The same options for the same selfie."""
        options = {name: value for name, value in super().identity().items() if name != "selfie"}
        return {**options, "known": self.selfie}


class SelfieFacts(BaseModel):
    """What is known of the selfie when it is wiped."""

    sha256: str
    likeness: str
    features: dict[str, dict[str, Any]]
    told: list[dict[str, str]]
    face: dict[str, Any]
    warnings: list[Any]
    apparent_age: Literal["minor", "ambiguous", "adult", "unknown"]
    described: dict[str, Any] | None

    @property
    def subject(self) -> Subject:
        return Subject(real=True, age=self.apparent_age)


class Request(Options):
    """A run's request: the options, and what is known of the selfie."""

    known: SelfieFacts
    strength_sent: float | None = None

    def identity(self) -> dict[str, Any]:
        """That of the call; what a worker read from the selfie, and made of it, is no part of it."""
        sent = {name: getattr(self, name) for name in Options.model_fields}
        return ProfileCall(**sent | {"strength": self.strength_sent, "selfie": self.known.sha256}).identity()


class Answer(DrawingAnswer):
    """The avatar, what was read from the selfie, and the prompt that was made of it."""

    features: dict[str, Any]
    face: dict[str, Any]
    warnings: list[Any]
    likeness: str
    tier: int
    strength_used: float | None


# -- before the run ---------------------------------------------------------------------------------------------------


async def prepare(
    studio: Studio, options: Options, selfie: Selfie, caller: Caller, *, strength_max: float
) -> tuple[Request, dict[str, bytes]]:
    """The run's request, and what is held for it. The selfie is wiped, however this ends; the caller wipes it too.
    Raises InvalidRequest without consent, Forbidden (likeness_revoked), Refused, and what a worker refuses."""
    if not options.consent:
        raise InvalidRequest("consent: the person's consent is required.", param="consent", code="consent_required")
    await studio.likenesses.refuse_revoked(caller.key, selfie.sha256)
    with selfie:
        seen, described = await look(studio, selfie, caller, portrait=options.strength is not None)
    known = SelfieFacts(
        sha256=selfie.sha256,
        likeness=await studio.likenesses.consented(caller.key, selfie.sha256),
        features={name: _feature(one) for name, one in seen.features.items()},
        told=spoken_features(seen),
        face=seen.face,
        warnings=seen.warnings,
        apparent_age=seen.apparent_age,
        described=dict(record_of(described)) if described else None,
    )
    portrait = options.strength is not None and seen.portrait is not None
    strength = min(options.strength or 0.0, strength_max) if portrait else None
    request = Request(**{**options.model_dump(), "strength": strength}, known=known, strength_sent=options.strength)
    return request, {PORTRAIT: base64.b64decode(seen.portrait or "")} if portrait else {}


async def look(studio: Studio, selfie: Selfie, caller: Caller, *, portrait: bool) -> tuple[SelfieAnswer, Run | None]:
    """Analyze, and describe where the worker has a vision model; then its run, proved and recorded, else None."""
    async with studio.recipes.judge.call(caller) as call:
        question = await _question(studio, call)
        await call.limit(question.needs)
        seen = await selfies.analyze(studio.engines, selfie, question, caller, call.run, portrait=portrait)
        call.run.took(stated(bytes(seen.usage)))
        if seen.vision_model is None:
            call.recorded = False  # nobody was asked the question
            return seen, None
        call.run.model, call.run.sampling = seen.vision_model, question.sampling
        call.compare(seen.messages_sha256)
    return seen, call.run


async def _question(studio: Studio, call: Call) -> Question:
    """What a vision model is asked, judged. Raises Upstream where the release holds no schema."""
    messages, release = await studio.recipes.rendered(call, DESCRIBE, {}, subject=REAL)
    async with studio.recipes.judge.call(call.caller, recorded=False) as beside:
        repair, _ = await studio.recipes.rendered(beside, REPAIR, {}, subject=REAL)
    sampling = dict(release.sampling)
    try:
        schema = sampling.pop("response_format")["json_schema"]["schema"]
    except (KeyError, TypeError) as exc:
        raise Upstream(f"The release {release.name} holds no schema.", code="no_schema") from exc
    return Question(messages, schema, sampling, repair[-1]["content"])


def spoken_features(seen: SelfieAnswer) -> list[dict[str, str]]:
    """The features that say something, as names and values for a recipe."""
    said = {name: str(one.value) for name, one in seen.features.items() if not isinstance(one.value, bool)}
    said |= {name: "yes" for name, one in seen.features.items() if one.value is True}
    shown = [(name, value) for name, value in said.items() if value.lower() not in NOTHING]
    return [{"name": name.replace("_", " ")[:40], "value": value[:80]} for name, value in shown][:40]


def _feature(feature: selfies.Feature) -> dict[str, Any]:
    return {"value": feature.value, "confidence": feature.confidence, "source": feature.source}


# -- the run ----------------------------------------------------------------------------------------------------------


async def run(studio: Studio, flow: Flow, request: Request, caller: Caller) -> Plain:
    """prompt → generate. Cancelling ends the step that runs. Raises Forbidden where the consent was taken back
    meanwhile, Conflict (input_gone) where the portrait went with the process that held it, and Refused."""
    known = request.known
    words = await flow.step("prompt", lambda key: _prompt(studio, request, caller, key))

    async def draw(key: str) -> steps.DrawResult:
        await studio.likenesses.refuse_revoked(caller.key, known.sha256)  # it may have been taken back meanwhile
        start = None if request.strength is None else SourceImage(flow.held(PORTRAIT), request.strength)
        return await steps.generate(
            studio,
            flow,
            caller,
            key=key,
            prompt=words["prompt"],
            request=request,
            role=ROLE,
            original=request.style or "",
            written_by=words,
            subject=known.subject,
            source=start,
        )

    pictures = await flow.step("generate", draw)
    before = [one for one in (known.described, words) if one is not None]
    return {
        **steps.drawn_answer(pictures),
        "features": known.features,
        "face": known.face,
        "warnings": known.warnings,
        "likeness": known.likeness,
        "tier": pictures["tier"],
        "strength_used": request.strength,
        "releases": [release(one) for one in before],
        "runs": [*(one["run"] for one in before), pictures["run"]],
    }


class PromptResult(StepRecord):
    """The avatar's prompt."""

    prompt: str
    cost: steps.Cost


async def _prompt(studio: Studio, request: Request, caller: Caller, key: str) -> PromptResult:
    features = request.known.told
    variables: dict[str, Any] = {"features": features, "presentation": request.presentation}
    variables |= {"style": request.style} if request.style else {}
    text, run = await studio.recipes.text(
        AVATAR, variables, caller, surface="image", subject=request.known.subject, key=key
    )
    prompt = text or ", ".join([request.presentation, *(one["value"] for one in features)])
    return PromptResult(**record_of(run), prompt=prompt, cost=steps.Cost(tokens=run.tokens, image_steps=0))
