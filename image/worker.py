"""What the image worker's routes share: run requests in an engine, encode what comes out."""

import asyncio
import base64
import hashlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request

from core.device.lease import DeviceLease
from core.errors import InvalidRequest, NotFound
from core.http import idempotency
from core.http.disconnect import until_disconnect
from image.async_engine import AsyncEngine
from image.blobs import Blobs
from image.encode import EDITED, GENERATED, Origin, Output, encode
from image.events import LAST, Admitted, Finished, Partial
from image.generation import Generation, finished
from image.ledger import Ledger
from image.repeats import RepeatableCall, Repeats
from image.request import ImageRequest, Pixels, Priority, Standing
from image.settings import ImageSettings
from image.signing import Signer
from image.sources import Sources

RELEASE_HEADER, RUN_HEADER = "x-soundstage-release", "x-soundstage-run"
"""What the caller wants written into the picture's metadata."""

TENANT_HEADER, PRIORITY_HEADER, DEADLINE_HEADER = (
    "x-soundstage-tenant",
    "x-soundstage-priority",
    "x-soundstage-deadline-ms",
)
"""For the scheduler: whose request it is, low, normal or high, and the milliseconds it may take."""

WAIT_HEADER = "x-soundstage-wait"
"""Seconds that a request with an Idempotency-Key is drawn on when its client is gone, who may ask again."""

_LONGEST_WAIT = 3600

_PRIORITIES: dict[str, Priority] = {"low": "low", "normal": "normal", "high": "high"}


@dataclass(frozen=True)
class Job:
    """A call that was read and checked."""

    model: str
    requests: Sequence[ImageRequest]
    output: Output
    request_id: str
    release: str | None
    run_id: str | None
    tells_prompt: bool
    call: RepeatableCall | None = None  # where it came with a key, under which it may come again

    def origin(self, request: ImageRequest) -> Origin:
        return Origin(
            self.model,
            request.seed,
            request.own_steps,
            self.release,
            self.run_id,
            request.prompt if self.tells_prompt else None,
            EDITED if request.source else GENERATED,
        )


@dataclass(frozen=True)
class Picture:
    request: ImageRequest
    done: Finished
    file: bytes

    @property
    def b64(self) -> str:
        return base64.b64encode(self.file).decode()

    @property
    def sent_tokens(self) -> int:
        """Of the pictures that it was made from, counted as those it draws are."""
        source = self.request.source
        pixels = sum(p.width * p.height for p in source.pictures) if source else 0
        return pixels * self.done.image_tokens // (self.request.width * self.request.height)


StreamPart = Admitted | tuple[int, bytes] | Picture
"""What a stream tells of an image: that it runs, previews with their index, the picture."""


@dataclass(frozen=True)
class Worker:
    """What the routes share."""

    settings: ImageSettings
    engines: Mapping[str, AsyncEngine]
    blobs: Blobs
    signer: Signer | None
    started: float  # seconds since the epoch
    repeats: Repeats
    sources: Sources
    lease: DeviceLease | None = None  # of a device that other workers use too
    ledger: Ledger = field(default_factory=Ledger)
    listeners: list[Callable[[], None]] = field(default_factory=list)  # told when readiness changes

    @property
    def ready(self) -> bool:
        return all(engine.ready for engine in self.engines.values())

    @property
    def draining(self) -> bool:
        return any(engine.draining for engine in self.engines.values())

    @property
    def depth(self) -> int:
        """Images that run or wait, and calls that wait for the device."""
        images = sum(engine.running + engine.waiting for engine in self.engines.values())
        return images + (self.lease.waiting if self.lease else 0)

    def load(self) -> dict[str, Any]:
        engines = self.engines.values()
        return {
            "running": sum(e.running for e in engines),
            "waiting": sum(e.waiting for e in engines),
            "capacity": self.settings.image_queue_max,
        }

    def model(self, asked: str | None) -> str:
        """The default model where none is named. Raises NotFound."""
        model = self.settings.model_id if asked is None else asked
        if model not in self.engines:
            raise NotFound(f"The model '{asked}' is not served here.", param="model", code="model_not_found")
        return model

    def uptime(self) -> float:
        return time.time() - self.started

    def begin_drain(self) -> None:
        """Take nothing more; what is here ends as usual."""
        for engine in self.engines.values():
            engine.draining = True
        self.on_change()

    async def idle(self) -> None:
        """Returns when nothing is left."""
        await asyncio.gather(*(engine.idle() for engine in self.engines.values()))

    def on_change(self) -> None:
        """Tell whoever listens that readiness has changed."""
        for listener in self.listeners:
            listener()

    def job(
        self,
        http: Request,
        model: str,
        requests: Sequence[ImageRequest],
        output: Output,
        tells_prompt: bool,
        *,
        sent: Sequence[bytes],
    ) -> Job:
        """`sent`: all that the call asks for, in bytes."""
        request_id = str(http.scope.get("request_id", ""))
        release, run_id = _label(http, RELEASE_HEADER), _label(http, RUN_HEADER)
        return Job(model, requests, output, request_id, release, run_id, tells_prompt, _call_of(http, sent))

    def repeated(self, job: Job) -> dict[str, str]:
        """The header of an answer that is being made, or was made, for an earlier call with its key. Ask it right
        before the job is submitted."""
        there = job.call is not None and self.repeats.status(*job.call.name) is not None
        return {idempotency.REPEATED: "true"} if there else {}

    async def run(self, http: Request, job: Job) -> list[Picture]:
        """The images, encoded. A client that leaves takes its requests out of the engine."""
        with until_disconnect(http.receive):
            async with self.submitted(job) as images:
                results = [(image.request, await image.result()) for image in images]
        return [await self.finish(job, *pair) for pair in results]

    def submitted(self, job: Job) -> AbstractAsyncContextManager[Sequence[Generation]]:
        """The job's images, drawn for it or, where it was asked for before, for that call."""
        if job.call is None:
            return self._drawing(job)
        return self.repeats.joined(job.call, lambda: self._drawing(job))

    @asynccontextmanager
    async def _drawing(self, job: Job) -> AsyncIterator[list[Generation]]:
        """The job in its engine, once the device is ours; whoever leaves the block before the end takes it out."""
        engine = self.engines[job.model]
        async with self.turn():
            generations = engine.submit(job.requests)
            self.ledger.add(job.request_id, job.model, int(time.time()), engine, generations)
            try:
                yield generations
            finally:
                for generation in generations:
                    generation.cancel()

    def turn(self) -> AbstractAsyncContextManager[None]:
        """The models are loaded for as long as the block runs. Raises Overloaded, Unavailable."""
        return self.lease.use() if self.lease else nullcontext()

    async def follow(self, job: Job, image: Generation) -> AsyncGenerator[StreamPart, None]:
        """That it runs, each preview with its index, then the picture. Raises what the image failed with."""
        async for event in image:
            if isinstance(event, Admitted):
                yield event
            elif isinstance(event, Partial):
                yield event.index, await self.encode(job, image.request, event.pixels, signed=False)
            elif isinstance(event, LAST):
                yield await self.finish(job, image.request, finished(event))

    async def finish(self, job: Job, request: ImageRequest, done: Finished) -> Picture:
        return Picture(request, done, await self.encode(job, request, done.pixels, signed=True))

    async def encode(self, job: Job, request: ImageRequest, pixels: Pixels, *, signed: bool) -> bytes:
        """The file; the signature comes last, because every later change would break it."""
        origin = job.origin(request)
        file = await asyncio.to_thread(encode, pixels, origin, job.output)
        if self.signer and signed:
            return await asyncio.to_thread(self.signer.sign, file, origin, job.output)
        return file


def standing(http: Request) -> Standing:
    """Raises InvalidRequest naming the header."""
    priority, milliseconds = http.headers.get(PRIORITY_HEADER), http.headers.get(DEADLINE_HEADER)
    if priority not in (None, *_PRIORITIES):
        raise InvalidRequest("The priority is low, normal or high.", param=PRIORITY_HEADER, code="invalid_value")
    deadline = None
    if milliseconds is not None:
        if not (milliseconds.isascii() and milliseconds.isdigit() and len(milliseconds) < 12):
            raise InvalidRequest("The deadline is in milliseconds.", param=DEADLINE_HEADER, code="invalid_value")
        deadline = time.monotonic() + int(milliseconds) / 1000
    return Standing(_label(http, TENANT_HEADER) or "", _PRIORITIES[priority or "normal"], deadline)


def name_of(http: Request) -> tuple[str, str | None]:
    """Whose call it is, and its key. Raises InvalidRequest naming the header."""
    return _label(http, TENANT_HEADER) or "", idempotency.checked(http.headers.get(idempotency.HEADER))


def _call_of(http: Request, sent: Sequence[bytes]) -> RepeatableCall | None:
    tenant, key = name_of(http)
    if key is None:
        return None
    wait = http.headers.get(WAIT_HEADER, "0")
    if not (wait.isascii() and wait.isdigit() and len(wait) < 5 and int(wait) <= _LONGEST_WAIT):
        raise InvalidRequest(f"The wait is 0 to {_LONGEST_WAIT} seconds.", param=WAIT_HEADER, code="invalid_value")
    whole = hashlib.sha256(http.url.path.encode())
    for part in sent:
        whole.update(b"%d:" % len(part) + part)
    return RepeatableCall(tenant, key, whole.hexdigest(), float(wait))


def _label(http: Request, header: str) -> str | None:
    value = http.headers.get(header)
    if value is not None and (len(value) > 200 or not value.isprintable()):
        raise InvalidRequest(f"{header} must be printable and at most 200 characters.", param=header)
    return value
