"""What every pipeline is given: recipes that answer with text, image engines, and who is asking."""

import contextlib
import hashlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from openai.types import ImagesResponse

from core.errors import NotFound, Upstream
from orchestrator.engines import Engines
from orchestrator.oversight import Caller
from orchestrator.policy_floor import Subject
from orchestrator.recipes import RecipeRunner
from orchestrator.runs import Run


@dataclass(frozen=True)
class Studio:
    """The means of a pipeline; one for each process."""

    recipes: RecipeRunner
    engines: Engines
    default_size: str


@dataclass(frozen=True)
class Picture:
    """A generated image: PNG bytes in base64, and what made it."""

    b64: str
    model: str


async def expanded(
    studio: Studio, recipe: str, variables: Mapping[str, Any], caller: Caller, *, role: str
) -> tuple[str, Run]:
    """What the picture shall show, and the run that says so. A model that draws few things can have a recipe of its
    own, which knows them: `recipe.MODEL` goes before `recipe` where the database has it."""
    own = studio.engines.model_of("images", role)
    if own:
        try:
            return await studio.recipes.text(f"{recipe}.{own}", variables, caller, surface="image")
        except NotFound as exc:
            if exc.code != "prompt_not_found":
                raise
    return await studio.recipes.text(recipe, variables, caller, surface="image")


@contextlib.asynccontextmanager
async def judged(
    studio: Studio,
    prompt: str,
    caller: Caller,
    *,
    said: str,
    like: Run,
    subject: Subject = Subject(),  # noqa: B008 - a frozen value
) -> AsyncIterator[tuple[Run, str]]:
    """A run for one image step: the prompt judged together with what the caller said, since a model can put in what
    the caller left out. Yields the run and the prompt as it may be sent, constraints appended. Raises Refused."""
    oversight = studio.recipes.oversight
    run = oversight.begin(caller)
    run.recipe, run.version, run.release_sha256 = like.recipe, like.version, like.release_sha256
    decision = await oversight.admit(run, caller, [said, prompt], "image", subject=subject)
    if decision.constraints:
        run.constraints_added = decision.constraints
        prompt = f"{prompt} {decision.constraints}"
    run.output_sha256 = hashlib.sha256(prompt.encode()).hexdigest()
    status = 502
    try:
        yield run, prompt
        status = 200
    finally:
        oversight.settle(run, status)


async def generate(
    studio: Studio,
    prompt: str,
    *,
    role: str,
    request_id: str,
    run_id: str,
    release: str,
    size: str | None,
    seed: int | None,
) -> Picture:
    """One picture of `prompt` by a worker of the pool `role`, or by any image worker where that pool is empty."""
    extra = {} if seed is None else {"seed": seed}
    async with studio.engines.engine(None, "images", request_id, role=role) as (client, model, _):
        answer = await client.images.generate(
            model=model,
            prompt=prompt,
            size=size or studio.default_size,
            extra_body=extra,
            extra_headers={"x-soundstage-run": run_id, "x-soundstage-release": release},
        )
    return only_image(answer, model)


def only_image(answer: ImagesResponse, model: str) -> Picture:
    """Raises Upstream where there is none."""
    image = answer.data[0].b64_json if answer.data else None
    if not image:
        raise Upstream("The image engine answered without an image.", code="no_image")
    return Picture(image, model)
