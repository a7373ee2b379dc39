"""/v1/workers: workers announce themselves here, with a key of the scope `worker`."""

import time
from typing import Annotated, Any

from fastapi import APIRouter, Depends

from core.wire.workers import Announcement, Lease
from orchestrator.auth import Key, Keys
from orchestrator.routes.access import needs
from orchestrator.workers import WorkerPool


def router(keys: Keys, workers: WorkerPool) -> APIRouter:
    api = APIRouter(prefix="/v1/workers", tags=["workers"])
    worker_key = Annotated[Key, Depends(needs(keys, "worker"))]

    @api.post("")
    async def register(announcement: Announcement, _: worker_key) -> Lease:
        """Register, or renew the lease; the whole announcement replaces what was known under its id."""
        return await workers.register(announcement)

    @api.get("")
    async def listed(_: worker_key) -> dict[str, Any]:
        """Live workers and what each is doing for this orchestrator."""
        now = time.monotonic()
        data = [
            {
                **worker.announcement.model_dump(mode="json"),
                "outstanding": worker.outstanding,
                "mean_seconds": round(worker.service.mean, 3),
                "breaker": worker.breaker.state(now),
            }
            for worker in workers.live()
        ]
        return {"object": "list", "data": data}

    @api.delete("/{worker_id:path}")
    async def remove(worker_id: str, _: worker_key) -> dict[str, Any]:
        await workers.remove(worker_id)
        return {"id": worker_id, "deleted": True}

    return api
