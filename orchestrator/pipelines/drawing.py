"""Pictures by an image worker: one request, one place at one worker, however many pictures; kept as blobs."""

import asyncio
import base64
import binascii
import math
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from openai import AsyncOpenAI

from core.errors import Upstream
from core.wire.workers import Ability
from orchestrator.blobs import Reference
from orchestrator.oversight import Caller
from orchestrator.pipelines.base import Studio
from orchestrator.pipelines.flow import Flow

PARTIAL = "image_generation.partial_image"
PNG = "image/png"


@dataclass(frozen=True)
class Source:
    """A JPEG that the picture starts from, and how far it may go from it: above 0, at most 1."""

    picture: bytes
    strength: float


@dataclass(frozen=True)
class Order:
    """What is to be drawn, and for which run of which release. `key`: the same order again has the same."""

    prompt: str
    size: str
    seed: int | None
    n: int
    previews: int
    key: str
    run: str
    release: str
    source: Source | None = None

    @property
    def ability(self) -> Ability:
        return "images" if self.source is None else "image_edits"

    def headers(self, caller: Caller) -> dict[str, str]:
        """Who asks, for how long, and what the picture's metadata shall say."""
        found = {
            "idempotency-key": self.key,
            "x-soundstage-run": self.run,
            "x-soundstage-tenant": caller.key.tenant,
        }
        if self.release:
            found["x-soundstage-release"] = self.release
        if math.isfinite(caller.until):
            left = caller.until - asyncio.get_running_loop().time()
            found["x-soundstage-deadline-ms"] = str(max(1, int(left * 1000)))
        return found


@dataclass(frozen=True)
class Drawn:
    """Each picture as {"image_base64": reference, "seed"}; `steps` that all of them took together."""

    images: list[dict[str, Any]]
    model: str
    worker: str
    steps: int


@dataclass(frozen=True)
class _Picture:
    file: bytes
    seed: int | None
    steps: int


async def draw(studio: Studio, flow: Flow, order: Order, caller: Caller, role: str | None) -> Drawn:
    """By a worker of the pool `role`, or by any image worker where that pool is empty. Previews are told by `flow`.

    Raises Upstream where no picture comes, and what the worker refuses.
    """
    engine = studio.engines.engine(None, order.ability, caller.request_id, role, **caller.place)
    async with engine as (client, model, worker):
        if order.previews:
            pictures = await _followed(studio, flow, order, _call(client, model, order, caller, stream=True))
        else:
            answer = await _call(client, model, order, caller)
            steps = _whole(answer.model_extra, "steps") or 0
            pictures = [_picture(one.b64_json, one.model_extra, steps) for one in answer.data or ()]
    if len(pictures) < order.n:
        raise Upstream("The image engine answered without an image.", code="no_image")
    images = [{"image_base64": await studio.blobs.put(one.file, PNG), "seed": one.seed} for one in pictures]
    if order.seed is not None and images[0]["seed"] is None:
        images = [{**one, "seed": order.seed + at} for at, one in enumerate(images)]
    return Drawn(images, model, worker, sum(one.steps for one in pictures))


def _call(client: AsyncOpenAI, model: str, order: Order, caller: Caller, *, stream: bool = False) -> Any:
    fields: dict[str, Any] = {"model": model, "prompt": order.prompt, "size": order.size}
    fields |= {"n": order.n} if order.n > 1 else {}
    fields |= {"stream": True, "partial_images": order.previews} if stream else {}
    extra: dict[str, Any] = {} if order.seed is None else {"seed": order.seed}
    headers = order.headers(caller)
    if order.source is None:
        return client.images.generate(**fields, extra_body=extra, extra_headers=headers)
    extra["strength"] = order.source.strength
    picture = ("portrait.jpg", order.source.picture, "image/jpeg")
    return client.images.edit(image=picture, **fields, extra_body=extra, extra_headers=headers)


async def _followed(studio: Studio, flow: Flow, order: Order, call: Any) -> list[_Picture]:
    """The finished pictures of a stream, in order; its previews told on the way."""
    found: dict[int, _Picture] = {}
    events: AsyncIterator[Any] = await call
    async for event in events:
        at = _whole(event.model_extra, "image_index") or 0
        if event.type.endswith(".completed"):
            found[at] = _picture(event.b64_json, event.model_extra, 0)
        elif event.type.endswith(".partial_image"):
            preview: Reference = await studio.blobs.put(_decoded(event.b64_json), PNG)
            told = {"b64_json": preview, "partial_image_index": event.partial_image_index, "image_index": at}
            await flow.emit(PARTIAL, told)
    return [found[at] for at in sorted(found)]


def _picture(b64: str | None, extra: Mapping[str, Any] | None, steps: int) -> _Picture:
    """Raises Upstream where there is none."""
    if not b64:
        raise Upstream("The image engine answered without an image.", code="no_image")
    return _Picture(_decoded(b64), _whole(extra, "seed"), _whole(extra, "steps") or steps)


def _decoded(b64: str) -> bytes:
    try:
        return base64.b64decode(b64, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise Upstream("The image engine's picture could not be read.", code="bad_upstream_answer") from exc


def _whole(extra: Mapping[str, Any] | None, name: str) -> int | None:
    """A number that the images API does not have, from a worker of ours; None from another."""
    value = (extra or {}).get(name)
    return value if isinstance(value, int) else None
