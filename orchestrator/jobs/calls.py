"""The three ways to call a pipeline, over one run: wait for its answer, follow its events, or leave it to work on."""

import asyncio
import contextlib
import hashlib
import json
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.responses import Response

from core.db.errors import DATABASE_AWAY
from core.db.plain import error_of, error_record, plain
from core.errors import Conflict, InvalidRequest, NotFound
from core.http import idempotency
from core.http.disconnect import ClientDisconnected, until_disconnect
from orchestrator.access.keys import Key
from orchestrator.jobs import store
from orchestrator.jobs.executor import Executor
from orchestrator.jobs.followers import Followers
from orchestrator.jobs.store import JobStore
from orchestrator.jobs.values import AT_ONCE, End, RunRequest, Way, pool_of
from orchestrator.jobs.webhooks import refuse_private
from orchestrator.operate.blobs import Blobs
from orchestrator.pipelines.base import DrawingRequest
from orchestrator.pipelines.calls import Events
from orchestrator.pipelines.flow import Event
from orchestrator.pipelines.picture_format import PictureFormat
from orchestrator.runs.caller import Caller

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 10.0


@dataclass(kw_only=True)
class PipelineCalls:
    """Takes what callers ask of pipelines."""

    executor: Executor
    jobs: JobStore
    followers: Followers
    blobs: Blobs
    places: Callable[[str], int]  # how many background jobs of a pool may be at work now
    pipeline_seconds: float  # the longest that somebody waits
    job_seconds: float  # the longest that a background job queues and runs
    stream_grace: float  # how many seconds a stream's run goes on when nobody follows it any more

    def __post_init__(self) -> None:
        self._farewells: set[asyncio.Task[None]] = set()

    async def answer(
        self, http: Request, name: str, asked: DrawingRequest, caller: Caller, held: Mapping[str, bytes] | None = None
    ) -> Response:
        """A run of the pipeline `name`, in the way that the body asks for. `held` stays in this process's memory."""
        request = self._request(http, name, asked, caller)
        await refuse_private(request.webhook)
        if request.way == "background" and not held:
            job_id = await self.executor.enqueue(request, self.places(request.pool))
        else:
            job_id = await self.executor.begin(request, held or {})
        return await self._response(http, request, job_id)

    async def again(self, http: Request, name: str, asked: DrawingRequest, caller: Caller) -> Response | None:
        """The answer of the run that the request's Idempotency-Key names; None where it names none. Raises Conflict
        where it was used for another request."""
        request = self._request(http, name, asked, caller)
        job_id = await self.jobs.first(request) if request.idempotency_key is not None else None
        return None if job_id is None else await self._response(http, request, job_id)

    async def knows(self, key: Key, idempotency_key: str) -> bool:
        """Whether it names a run of this key."""
        return await self.jobs.knows(key.id, idempotency_key)

    async def _response(self, http: Request, request: RunRequest, job_id: str) -> Response:
        if request.way == "background":
            headers = {"location": f"/v1/jobs/{job_id}", "x-job-id": job_id}
            return JSONResponse(await self.shown(http, await self._row(job_id, request)), 202, headers=headers)
        if request.way == "wait":
            return await self._wait(http, job_id, request)
        way = self.executor.way(job_id)
        here = {"id": job_id, "way": way, "request": request.request, "ended_at": None, "events": 0}
        return self._events(http, here if way else await self._row(job_id, request), last_seen(http) or 0)

    def _request(self, http: Request, name: str, asked: DrawingRequest, caller: Caller) -> RunRequest:
        if asked.stream and asked.background:
            raise InvalidRequest("Ask for `stream` or `background`, not both.", param="background", code="both_ways")
        if asked.webhook is not None and not asked.background:
            raise InvalidRequest("`webhook` goes with `background`.", param="webhook", code="webhook_not_background")
        way: Way = "stream" if asked.stream else "background" if asked.background else "wait"
        longest = self.job_seconds if way == "background" else self.pipeline_seconds
        seconds = min(longest, caller.until - asyncio.get_running_loop().time())
        return RunRequest(
            pipeline=name,
            caller=caller,
            request=plain(asked.model_dump(mode="json")),
            request_sha256=_sha256([name, plain(asked.identity())]),
            way=way,
            pool=pool_of(self.executor.pipelines[name]) if way == "background" else AT_ONCE,
            seconds=max(0.0, seconds),
            priority=asked.priority or caller.priority,
            idempotency_key=idempotency.checked(http.headers.get(idempotency.HEADER)),
            webhook=str(asked.webhook) if asked.webhook is not None else None,
        )

    # -- the three ways -------------------------------------------------------------------------------------------

    async def _wait(self, http: Request, job_id: str, request: RunRequest) -> Response:
        """The answer, or its error. Who leaves ends the run, unless a key lets them come back for it."""
        try:
            with until_disconnect(http.receive):
                how = await self.executor.ended_here(job_id) or await self._end_elsewhere(job_id, request)
        except ClientDisconnected:
            if request.idempotency_key is None:
                await self.executor.cancel(job_id, _caller_left())
            raise
        if how.error is not None:
            raise how.cause or error_of(how.error)
        answer = await self._pictures(http, request.request).apply(how.answer)
        return Response(msgspec.json.encode(answer), headers={"x-job-id": job_id}, media_type="application/json")

    async def _row(self, job_id: str, request: RunRequest) -> dict[str, Any]:
        return await self.jobs.one(job_id, request.caller.key.id)

    async def _end_elsewhere(self, job_id: str, request: RunRequest) -> End:
        """How a run ended that is carried out elsewhere, or was long ago."""
        row = await self._row(job_id, request)
        if row["ended_at"] is None:
            async for _ in self.followers.follow(job_id, row["events"], HEARTBEAT_SECONDS):
                pass
            row = await self._row(job_id, request)
        return End(row["state"], row["answer"], row["error"])

    async def stream(self, http: Request, row: Mapping[str, Any], after: int) -> Response:
        """A run's events after that number, as server-sent events up to the last one; of one that is not there yet:
        those that come from now on."""
        after = min(after, row["events"])
        if row["way"] == "stream" and row["ended_at"] is None:
            await self.jobs.count_follower(row["id"], 1)
        return self._events(http, row, after)

    def _events(self, http: Request, row: Mapping[str, Any], after: int) -> Response:
        """The same for one who counts as a follower already."""
        left = partial(self._left, row["id"]) if row["way"] == "stream" else lambda: None
        answer = Events(self._follow(row, after), self._pictures(http, row["request"]), left)
        answer.headers["x-job-id"] = row["id"]
        return answer

    async def _follow(self, row: Mapping[str, Any], after: int) -> AsyncGenerator[Event | None, None]:
        """The events, with something to read before the first one comes; none where everything was seen."""
        yield None
        if row["ended_at"] is None or after < row["events"]:
            async with contextlib.aclosing(self.followers.follow(row["id"], after, HEARTBEAT_SECONDS)) as events:
                async for event in events:
                    yield event

    def _left(self, job_id: str) -> None:
        task = asyncio.create_task(self._end_deserted(job_id))
        self._farewells.add(task)
        task.add_done_callback(self._farewells.discard)

    async def _end_deserted(self, job_id: str) -> None:
        """A follower of a stream left. Where none comes back, on any orchestrator, the run ends."""
        try:
            await self.jobs.count_follower(job_id, -1)
            await asyncio.sleep(self.stream_grace)
            if await self.jobs.is_deserted(job_id):
                await self.executor.cancel(job_id, _caller_left())
        except DATABASE_AWAY as exc:
            log.warning("a stream that was left goes on", extra={"job": job_id, "reason": exc})

    async def close(self) -> None:
        """Nobody left: it is this process that goes, and others take up what runs."""
        for task in self._farewells:
            task.cancel()
        await asyncio.gather(*self._farewells, return_exceptions=True)

    # -- reading --------------------------------------------------------------------------------------------------

    def _pictures(self, http: Request, asked: Mapping[str, Any]) -> PictureFormat:
        return PictureFormat(self.blobs, str(http.base_url), as_url=asked.get("response_format") == "url")

    async def shown(self, http: Request, row: Mapping[str, Any]) -> dict[str, Any]:
        """A job as the API gives it: with its pictures, or with their names alone where their time is over."""
        found = store.shown(row)
        if found.get("result") is not None:
            with contextlib.suppress(NotFound):
                found["result"] = await self._pictures(http, row["request"]).apply(found["result"])
        return found

    async def page(self, http: Request, row: Mapping[str, Any], after: int) -> dict[str, Any]:
        """The events after that number, as many as are read at once."""
        found, pictures = await self.jobs.events(row["id"], after), self._pictures(http, row["request"])
        data = [{"type": e["name"], "sequence_number": e["number"], **await pictures.apply(e["data"])} for e in found]
        last = found[-1]["number"] if found else after
        return {"object": "list", "data": data, "has_more": last < row["events"], "last": last, "state": row["state"]}


def _caller_left() -> End:
    return End("cancelled", None, error_record(Conflict("The caller left.", code="caller_left")))


def _sha256(value: Any) -> str:
    """Of plain JSON; a seed may be larger than what canonical JSON carries."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def last_seen(http: Request) -> int | None:
    """From `Last-Event-ID`, as a browser sends it when it connects again; None where there is none."""
    given = http.headers.get("last-event-id")
    if given is None:
        return None
    if not (given.isascii() and given.isdigit() and len(given) < 10):
        raise InvalidRequest("Last-Event-ID is the id of an event.", param="Last-Event-ID", code="invalid_event_id")
    return int(given)
