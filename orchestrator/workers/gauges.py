"""What the workers are doing, as metrics."""

import time
from collections.abc import Mapping, Sequence

from prometheus_client import Gauge

from core.metrics import same_everywhere
from core.wire.workers import Kind
from orchestrator.workers.worker import Worker

WORKERS = same_everywhere(
    Gauge("soundstage_workers", "Workers with a live lease; an ejected one may be ready.", ["kind", "state"])
)
PLACES = same_everywhere(Gauge("soundstage_worker_places", "Requests that ready workers take at once.", ["kind"]))
OUTSTANDING = Gauge("soundstage_worker_outstanding", "This orchestrator's requests at workers.", ["kind"])
BREAKERS = same_everywhere(Gauge("soundstage_worker_breakers", "Workers by their breaker's state.", ["kind", "state"]))
QUEUED = Gauge("soundstage_queue_depth", "Requests that wait for a place at a worker.", ["kind"])


def show(live: Sequence[Worker], depth: Mapping[Kind, int]) -> None:
    """`live`: workers whose lease holds; `depth`: how many requests wait for each kind."""
    now = time.monotonic()
    for kind, waiting in depth.items():
        workers = [worker for worker in live if worker.announcement.kind == kind]
        ready = sum(worker.open for worker in workers)
        WORKERS.labels(kind, "ready").set(ready)
        WORKERS.labels(kind, "not_ready").set(len(workers) - ready)
        WORKERS.labels(kind, "ejected").set(sum(not worker.breaker.lets_in(now) for worker in workers))
        states = [worker.breaker.state(now) for worker in workers]
        for state in ("closed", "open", "half_open"):
            BREAKERS.labels(kind, state).set(states.count(state))
        PLACES.labels(kind).set(sum(worker.capacity for worker in workers if worker.open))
        OUTSTANDING.labels(kind).set(sum(worker.outstanding for worker in workers))
        QUEUED.labels(kind).set(waiting)
