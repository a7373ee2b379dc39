"""What every pipeline is given: recipes that answer with text, image engines, and who is asking."""

from dataclasses import dataclass

from core.errors import Upstream
from orchestrator.engines import Engines
from orchestrator.recipes import RecipeRunner


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
    async with studio.engines.engine(None, "images", request_id, role=role) as (client, model):
        answer = await client.images.generate(
            model=model,
            prompt=prompt,
            size=size or studio.default_size,
            extra_body=extra,
            extra_headers={"x-soundstage-run": run_id, "x-soundstage-release": release},
        )
    image = answer.data[0].b64_json if answer.data else None
    if not image:
        raise Upstream("The image engine answered without an image.", code="no_image")
    return Picture(image, model)
