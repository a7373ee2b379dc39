"""Pictures by an image worker: one request, one place at one worker, however many pictures; kept as blobs.

A worker of ours gives what it drew under the order's key again, and draws on for a while where the orchestrator is
gone: a run that is taken up finds its picture there. Who is cancelled says so, and the worker stops.
"""

import asyncio
import base64
import binascii
import contextlib
import hashlib
import math
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

import httpx2
import msgspec
from openai import AsyncOpenAI

from core import untrusted
from core.errors import Conflict, Upstream
from core.http.idempotency import REPEATED
from core.wire.workers import Ability
from orchestrator.access.payments import EngineWork
from orchestrator.operate.blobs import MAX_BYTES, Reference
from orchestrator.pipelines.base import Studio
from orchestrator.pipelines.flow import STOPPING, Flow
from orchestrator.runs.caller import Caller

PARTIAL = "image_generation.partial_image"
PNG = "image/png"
WAIT_HEADER = "x-soundstage-wait"
MAX_SEED = 2**63 - 1
WAIT_SECONDS = 60
"""How long a worker draws on for an orchestrator that is gone: longer than it takes another to take up the run."""


@dataclass(frozen=True)
class SourceImage:
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
    source: SourceImage | None = None
    outlives: bool = False  # the run does this process

    @property
    def ability(self) -> Ability:
        return "images" if self.source is None else "image_edits"

    def headers(self, caller: Caller) -> dict[str, str]:
        """Who asks, for how long, and what the picture's metadata shall say."""
        found = {"idempotency-key": self.key, "x-soundstage-run": self.run, "x-soundstage-tenant": caller.key.tenant}
        if self.outlives and self.source is None:  # what it starts from is gone with the process
            found[WAIT_HEADER] = str(WAIT_SECONDS)
        if self.release:
            found["x-soundstage-release"] = self.release
        if math.isfinite(caller.until):
            left = caller.until - asyncio.get_running_loop().time()
            found["x-soundstage-deadline-ms"] = str(max(1, int(left * 1000)))
        return found

    def changed(self) -> "Order":
        """The same with a key of its own, where what is asked for is not what its key was used for before: a policy or
        a default was changed between the two."""
        digest = hashlib.sha256(f"{self.prompt}\n{self.size}".encode()).hexdigest()
        return replace(self, key=f"{self.key}:{digest[:12]}")


@dataclass(frozen=True)
class Drawing:
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


class _Image(msgspec.Struct):
    """Of an image engine's answer. `seed` and `steps` are not of the images API: a worker of ours tells them."""

    b64_json: str | None = None
    seed: Any = None
    steps: Any = None


class _Event(_Image):
    """Of its stream."""

    type: str = ""
    image_index: Any = None
    partial_image_index: Any = None


class _Images(msgspec.Struct):
    data: list[_Image] | None = None
    steps: Any = None


@dataclass
class DrawingCall:
    """One order for a worker of the pool `role`, or for any image worker where that pool is empty. Previews are told by
    `flow`, pictures that come are counted."""

    studio: Studio
    flow: Flow
    order: Order
    caller: Caller
    role: str | None
    work: EngineWork

    async def draw(self) -> Drawing:
        """Raises Upstream where no picture comes, and what the worker refuses."""
        self.order = replace(self.order, outlives=self.flow.outlives)
        try:
            return await self._draw()
        except Conflict as exc:
            if exc.code != "idempotency_key_reused":
                raise
            self.order = self.order.changed()
            return await self._draw()

    async def _draw(self) -> Drawing:
        engines, order, caller = self.studio.engines, self.order, self.caller
        holder = await engines.holder(order.ability, self.role, self._headers()) if self.flow.again else None
        engine = engines.engine(None, order.ability, caller.request_id, self.role, prefer=holder, **caller.place)
        async with engine as (client, model, worker):
            self.work.begun = True
            with self._cancelled_at_worker(client):
                pictures = await self._pictures(client, model)
        self.work.came = len(pictures)
        if len(pictures) < order.n:
            raise Upstream("The image engine answered without an image.", code="no_image")
        images = [{"image_base64": await self.studio.blobs.put(one.file, PNG), "seed": one.seed} for one in pictures]
        if order.seed is not None and images[0]["seed"] is None:
            images = [{**one, "seed": order.seed + at} for at, one in enumerate(images)]
        return Drawing(images, model, worker, sum(one.steps for one in pictures))

    def _headers(self) -> dict[str, str]:
        return self.order.headers(self.caller)

    @contextlib.contextmanager
    def _cancelled_at_worker(self, client: AsyncOpenAI) -> Iterator[None]:
        """Who is cancelled for good does not come again: a worker that would wait for that need not."""
        try:
            yield
        except asyncio.CancelledError as exc:
            headers = self._headers()
            if WAIT_HEADER in headers and exc.args != (STOPPING,):
                self.studio.engines.aside(
                    lambda: client.post("/images/cancel", cast_to=httpx2.Response, options={"headers": headers})
                )
            raise

    async def _pictures(self, client: AsyncOpenAI, model: str) -> list[_Picture]:
        answer = await self._call(client, model)
        if self.order.previews:
            return await self._from_stream(answer)
        found = untrusted.decoded(answer.content, _Images)
        return [_picture(one.b64_json, one.seed, one.steps, found.steps) for one in (found.data or ())[: self.order.n]]

    async def _call(self, client: AsyncOpenAI, model: str) -> Any:
        """The answer, or its events where there are previews. Counted is whether the worker had made it before."""
        order = self.order
        fields: dict[str, Any] = {"model": model, "prompt": order.prompt, "size": order.size}
        fields |= {"n": order.n} if order.n > 1 else {}
        fields |= {"stream": True, "partial_images": order.previews} if order.previews else {}
        extra: dict[str, Any] = {} if order.seed is None else {"seed": order.seed}
        images = client.images.with_raw_response
        if order.source is None:
            raw = await images.generate(**fields, extra_body=extra, extra_headers=self._headers())
        else:
            extra["strength"] = order.source.strength
            picture = ("portrait.jpg", order.source.picture, "image/jpeg")
            raw = await images.edit(image=picture, **fields, extra_body=extra, extra_headers=self._headers())
        self.work.repeated = REPEATED in raw.headers
        return raw.parse() if order.previews else raw

    async def _from_stream(self, events: AsyncIterator[Any]) -> list[_Picture]:
        """The finished pictures of a stream, in order; its previews told on the way."""
        found: dict[int, _Picture] = {}
        async for event in _events(events):
            at = min(_whole(event.image_index), self.order.n - 1)
            if event.type.endswith(".completed"):
                found[at] = _picture(event.b64_json, event.seed, event.steps)
                self.work.came = len(found)
            elif event.type.endswith(".partial_image"):
                preview: Reference = await self.studio.blobs.put(_decoded(event.b64_json or ""), PNG)
                number = _whole(event.partial_image_index)
                told = {"b64_json": preview, "partial_image_index": number, "image_index": at}
                await self.flow.emit(PARTIAL, told)
        return [found[at] for at in sorted(found)]


async def _events(stream: AsyncIterator[Any]) -> AsyncIterator[_Event]:
    """The client's events, each of the shape that is used here. Raises Upstream: the client itself takes whatever JSON
    comes, and fails as that JSON makes it."""
    while True:
        try:
            event = await anext(stream)
            found = msgspec.convert(event.model_dump(warnings=False), _Event)
        except StopAsyncIteration:
            return
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as exc:
            raise Upstream("The image engine's events could not be read.", code="bad_upstream_answer") from exc
        yield found


def _picture(b64: str | None, seed: object, *steps: object) -> _Picture:
    """`steps`: the picture's own, else those of all. Raises Upstream where there is no picture."""
    if not b64:
        raise Upstream("The image engine answered without an image.", code="no_image")
    taken = next((number for each in steps if (number := _whole(each))), 0)
    return _Picture(_decoded(b64), seed if _is_whole(seed, MAX_SEED) else None, taken)


def _decoded(b64: str) -> bytes:
    if len(b64) > MAX_BYTES // 3 * 4:
        raise Upstream(f"The image engine's picture has more than {MAX_BYTES} bytes.", code="bad_upstream_answer")
    try:
        return base64.b64decode(b64, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise Upstream("The image engine's picture could not be read.", code="bad_upstream_answer") from exc


def _whole(value: object) -> int:
    """A number that a worker of ours states; 0 where another states none, or nonsense."""
    return value if _is_whole(value, untrusted.MAX_COUNT) else 0


def _is_whole(value: object, most: int) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most
