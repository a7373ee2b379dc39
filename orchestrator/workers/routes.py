"""/v1/workers: workers announce themselves here, with a key of the scope `worker`; an admin registers other servers by
URL, sees them all, and drains them."""

import time
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends
from pydantic import AfterValidator, BaseModel

from core.db.changes import Writer
from core.errors import Forbidden
from core.parsing import body_schema, parse_object
from core.paths import unescaped
from core.wire.workers import Announcement, Lease
from orchestrator.access.dependencies import needs
from orchestrator.access.keys import Key, Keys
from orchestrator.workers.registered import PREFIX, EngineRegistration, RegisteredEngines
from orchestrator.workers.registry import WorkerPool
from orchestrator.workers.worker import Worker

WorkerId = Annotated[str, AfterValidator(unescaped)]  # an id may hold slashes

_BODY = body_schema({"anyOf": [Announcement.model_json_schema(), EngineRegistration.model_json_schema()]})


class Registered(BaseModel):
    """A server that is asked from now on."""

    id: str
    url: str


def router(keys: Keys, workers: WorkerPool, engines: RegisteredEngines) -> APIRouter:
    api = APIRouter(prefix="/v1/workers", tags=["workers"])
    any_key = Annotated[Key, Depends(needs(keys))]
    admin_key = Annotated[Key, Depends(needs(keys, "admin"))]

    def operator(key: any_key) -> Key:
        if not key.scopes & {"worker", "admin"}:
            raise Forbidden("This key lacks the scope `worker`, and `admin`.", code="missing_scope")
        return key

    operators_key = Annotated[Key, Depends(operator)]

    @api.post("", openapi_extra=_BODY)
    async def register(body: Annotated[dict[str, Any], Body()], key: operators_key) -> Lease | Registered:
        """With a worker key: register, or renew the lease that this key holds; the whole announcement replaces what was
        known under its id. With an admin key: use a server by its URL; the same name again replaces what was known."""
        if "worker" in key.scopes:
            return await workers.register(parse_object(Announcement, body), key.id)
        server = parse_object(EngineRegistration, body)
        await engines.register(server, Writer(key.id))
        return Registered(id=server.worker_id, url=str(server.url))

    @api.get("")
    async def listed(_: operators_key) -> dict[str, Any]:
        """Live workers and what each is doing for this orchestrator."""
        return {"object": "list", "data": [_entry(worker) for worker in workers.live()]}

    @api.put("/{worker_id:path}/drain")
    async def drain(worker_id: WorkerId, key: admin_key) -> dict[str, Any]:
        """No new request goes to it; those that it has it finishes (`outstanding` in the list: this orchestrator's)."""
        await workers.drain(worker_id, drained=True, actor=key.id)
        return {"id": worker_id, "drained": True}

    @api.delete("/{worker_id:path}/drain")
    async def undrain(worker_id: WorkerId, key: admin_key) -> dict[str, Any]:
        await workers.drain(worker_id, drained=False, actor=key.id)
        return {"id": worker_id, "drained": False}

    @api.delete("/{worker_id:path}")
    async def remove(worker_id: WorkerId, key: operators_key) -> dict[str, Any]:
        """A worker's farewell, by the key that holds its lease, or an admin's that it shall not be used any more."""
        if worker_id.startswith(PREFIX):
            key.require("admin")
            await engines.remove(worker_id, Writer(key.id))
            workers.forget(worker_id)
        else:
            await workers.remove(worker_id, None if "admin" in key.scopes else key.id)
        return {"id": worker_id, "deleted": True}

    return api


def _entry(worker: Worker) -> dict[str, Any]:
    return {
        **worker.announcement.model_dump(mode="json"),
        "outstanding": worker.outstanding,
        "mean_seconds": round(worker.service.mean, 3),
        "breaker": worker.breaker.state(time.monotonic()),
        "probed_ready": worker.probed,
        "drained": worker.drained,
    }
