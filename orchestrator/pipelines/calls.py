"""How a run is called by who waits for it or follows it, over a flow in memory."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, Protocol

import msgspec
from fastapi import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from core.errors import InvalidRequest, SoundstageError, UpstreamTimeout
from core.http.disconnect import ClientDisconnected, until_disconnect
from orchestrator.access.keys import Key
from orchestrator.pipelines import flow
from orchestrator.pipelines.base import DrawingRequest, Pipeline, Plain, Studio
from orchestrator.pipelines.picture_format import PictureFormat
from orchestrator.runs.caller import Caller
from orchestrator.runs.record import new_run_id

HEARTBEAT_SECONDS = 10.0
COMPLETED, ERROR = "pipeline.completed", "error"
SIGN_OF_LIFE = b": running\n"  # no empty line: after an event with an id, some clients take one for an event
SSE = {"cache-control": "no-store", "x-accel-buffering": "no"}


class RunService(Protocol):
    """Where every route brings its runs."""

    async def answer(
        self, http: Request, name: str, request: DrawingRequest, caller: Caller, held: Mapping[str, bytes] | None = None
    ) -> Response:
        """A run of the pipeline `name`, in the way that the body asks for."""

    async def again(self, http: Request, name: str, request: DrawingRequest, caller: Caller) -> Response | None:
        """The answer of the run that the request's Idempotency-Key names; None where it names none. Raises Conflict
        where it was used for another request."""

    async def knows(self, key: Key, idempotency_key: str) -> bool:
        """Whether it names a run of this key."""


class MemoryRuns:
    """Runs that live as long as somebody waits for them: nothing of them outlives the process."""

    def __init__(self, studio: Studio, pipelines: Mapping[str, Pipeline], longest: float) -> None:
        self._studio, self._pipelines, self._longest = studio, pipelines, longest

    async def answer(
        self, http: Request, name: str, request: DrawingRequest, caller: Caller, held: Mapping[str, bytes] | None = None
    ) -> Response:
        """The answer, or its events. The run ends when the caller leaves, or after the longest time it may take."""
        if request.background:
            raise InvalidRequest("There are no jobs here.", param="background", code="no_jobs")
        run = _StreamedFlow(new_run_id(), held)

        def work() -> Awaitable[Plain]:
            return self._run(self._pipelines[name], run, request, caller)

        pictures = PictureFormat(self._studio.blobs, str(http.base_url), as_url=request.response_format == "url")
        if request.stream:
            return Events(_events(run, work), pictures)
        with until_disconnect(http.receive):
            return Response(msgspec.json.encode(await pictures.apply(await work())), media_type="application/json")

    async def again(self, http: Request, name: str, request: DrawingRequest, caller: Caller) -> None:
        """Nothing is kept."""

    async def knows(self, key: Key, idempotency_key: str) -> bool:
        return False

    async def _run(self, pipeline: Pipeline, run: flow.MemoryFlow, request: DrawingRequest, caller: Caller) -> Plain:
        try:
            async with asyncio.timeout(self._longest):
                return await pipeline.run(self._studio, run, request, caller)
        except TimeoutError:
            why = f"The pipeline took longer than {self._longest:g} s."
            raise UpstreamTimeout(why, code="pipeline_timeout") from None


class _StreamedFlow(flow.MemoryFlow):
    """A run whose events are told to one who follows."""

    def __init__(self, run_id: str, held: Mapping[str, bytes] | None = None) -> None:
        super().__init__(run_id, held)
        self.news: asyncio.Queue[flow.Event | None] = asyncio.Queue()

    async def emit(self, event: str, data: Mapping[str, Any]) -> None:
        await super().emit(event, data)
        self.news.put_nowait(self.events[-1])


async def _events(run: _StreamedFlow, work: Callable[[], Awaitable[Plain]]) -> AsyncGenerator[flow.Event | None, None]:
    """What happens in the run, the answer or the error at the end, and None now and then where nothing happens."""

    async def all_of_it() -> None:
        try:
            await run.emit(COMPLETED, await work())
        except SoundstageError as exc:
            await run.emit(ERROR, exc.envelope())
        finally:
            run.news.put_nowait(None)

    running = asyncio.ensure_future(all_of_it())
    try:
        while True:
            try:
                async with asyncio.timeout(HEARTBEAT_SECONDS):
                    event = await run.news.get()
            except TimeoutError:
                yield None
                continue
            if event is None:
                await running
                return
            yield event
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


class Events(Response):
    """Server-sent events, pictures shown in them; a client that leaves ends what makes them."""

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[flow.Event | None, None],
        pictures: PictureFormat,
        left: Callable[[], object] = lambda: None,
    ) -> None:
        """`left` is called where the client goes before the end."""
        super().__init__(headers=SSE)
        del self.headers["content-length"]
        self._events, self._pictures, self._left = events, pictures, left

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._events):
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            try:
                with until_disconnect(receive):
                    async for event in self._events:
                        body = SIGN_OF_LIFE if event is None else await self._frame(event)
                        await send({"type": "http.response.body", "body": body, "more_body": True})
            except ClientDisconnected:
                self._left()
                raise
            await send({"type": "http.response.body", "body": b""})

    async def _frame(self, event: flow.Event) -> bytes:
        data = {"type": event.name, "sequence_number": event.number, **await self._pictures.apply(dict(event.data))}
        return b"id: %d\nevent: %s\ndata: %s\n\n" % (event.number, event.name.encode(), msgspec.json.encode(data))
