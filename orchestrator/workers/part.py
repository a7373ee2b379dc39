"""Who can work now: workers that announce themselves, servers by URL, and the relay that reaches them."""

from dataclasses import dataclass

from core.http.relay import Relay
from core.part import Part
from core.service import Readiness
from core.watchers import Watchers
from orchestrator.access.part import Access
from orchestrator.operate.part import Operate
from orchestrator.settings import OrchestratorSettings
from orchestrator.workers import model_routes, routes, static
from orchestrator.workers.probe import Prober
from orchestrator.workers.registered import RegisteredEngines
from orchestrator.workers.registry import WorkerPool
from orchestrator.workers.rules import rules_of


@dataclass(kw_only=True)
class Workers(Part):
    pool: WorkerPool
    relay: Relay

    def watch(self, watchers: Watchers) -> None:
        super().watch(watchers)
        watchers.watch("relay's timeouts", self.relay.sweeper)


def build(settings: OrchestratorSettings, operate: Operate, access: Access) -> Workers:
    relay = Relay(settings.timeouts())
    pool = WorkerPool(operate.pool, access.worker_key, settings.lease_seconds, rules_of(settings))
    registered = RegisteredEngines(operate.pool, operate.seal)
    prober = Prober(
        pool,
        relay,
        static.workers_of(settings, access.worker_key),
        registered.known,
        every=settings.probe_seconds,
        announced_every=settings.ready_probe_seconds,
        timeout=settings.probe_timeout_seconds,
        lease=settings.lease_seconds,
    )

    async def ready() -> Readiness:
        """Of every kind of worker that is needed one can be asked."""
        usable = {worker.announcement.kind for worker in pool.usable()}
        return Readiness(usable >= set(settings.ready_needs), {"workers": sorted(usable)})

    return Workers(
        pool=pool,
        relay=relay,
        routers=[model_routes.router(access.keys, pool), routes.router(access.keys, pool, registered)],
        resources=[relay],
        first=[pool.read_leases],
        ready=ready,
        watchers={"leases of workers": pool.poll, "probes": prober.run},
    )
