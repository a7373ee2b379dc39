"""/v1/jobs: runs of pipelines as their caller sees them. A key sees its own; an admin one that it names."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from core.db.plain import error_record
from core.errors import Conflict
from core.http.paging import page
from orchestrator.access.dependencies import needs
from orchestrator.access.keys import Key, Keys
from orchestrator.jobs.calls import PipelineCalls, last_seen
from orchestrator.jobs.executor import Executor
from orchestrator.jobs.store import JobStore, shown
from orchestrator.jobs.values import End, State
from orchestrator.jobs.webhooks import Webhooks


def router(keys: Keys, calls: PipelineCalls, jobs: JobStore, executor: Executor, webhooks: Webhooks) -> APIRouter:
    api = APIRouter(prefix="/v1/jobs", tags=["jobs"])
    pipelines_key = Annotated[Key, Depends(needs(keys, "pipelines"))]

    def owner(key: Key) -> str | None:
        return None if "admin" in key.scopes else key.id

    @api.get("")
    async def listed(
        key: pipelines_key,
        state: State | None = None,
        pipeline: Annotated[str | None, Query(max_length=64)] = None,
        after: Annotated[str | None, Query(max_length=64)] = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
    ) -> dict[str, Any]:
        """The key's own jobs, the newest first; `after` is the last id of the page before."""
        rows = await jobs.listed(key.id, state=state, pipeline=pipeline, after=after, limit=limit + 1)
        return page([shown(row) for row in rows], limit)

    @api.get("/webhook-secret")
    async def secret(key: pipelines_key) -> dict[str, str]:
        """What the key's tenant checks the signatures of webhooks with."""
        return {"object": "webhook_secret", "secret": webhooks.secret(key.tenant)}

    @api.get("/{job_id}")
    async def one(job_id: str, request: Request, key: pipelines_key) -> dict[str, Any]:
        """The job, its result with it once it has ended."""
        return await calls.shown(request, await jobs.one(job_id, owner(key)))

    @api.get("/{job_id}/events", response_model=None)
    async def events(
        job_id: str,
        request: Request,
        key: pipelines_key,
        starting_after: Annotated[int | None, Query(ge=0, lt=2**31)] = None,
    ) -> Response | dict[str, Any]:
        """The events after a number: as server-sent events up to the last one where the caller accepts those, which
        `Last-Event-ID` takes up again; else those that are there, as JSON. The header goes before `starting_after`: a
        client that connects again sends the address that it began with."""
        row = await jobs.one(job_id, owner(key))
        seen = last_seen(request)
        after = (starting_after or 0) if seen is None else seen
        if "text/event-stream" in request.headers.get("accept", ""):
            return await calls.stream(request, row, after)
        return await calls.page(request, row, after)

    @api.post("/{job_id}/cancel")
    async def cancel(job_id: str, request: Request, key: pipelines_key) -> dict[str, Any]:
        """End the job before its time; one that has ended stays as it ended, and is given back so."""
        await jobs.one(job_id, owner(key))
        reason = Conflict("The job was cancelled.", code="job_cancelled")
        await executor.cancel(job_id, End("cancelled", None, error_record(reason)))
        return await calls.shown(request, await jobs.one(job_id, owner(key)))

    return api
