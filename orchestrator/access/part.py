"""Keys, limits and the routes that an admin keeps them by."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from core.keys import read_or_make
from core.part import Part
from orchestrator.access import alias_routes, key_routes, tenant_routes
from orchestrator.access.keys import Keys, create_key
from orchestrator.access.quotas import Quotas
from orchestrator.operate.part import Operate
from orchestrator.settings import OrchestratorSettings

Erase = Callable[[str], Awaitable[Any]]


@dataclass(kw_only=True)
class Access(Part):
    """`worker_key`: what workers register with and are called with."""

    keys: Keys
    quotas: Quotas
    worker_key: str


def build(settings: OrchestratorSettings, operate: Operate, *, erase_contents: Erase, erase_texts: Erase) -> Access:
    """The two erasers let go of what is kept of a tenant: of its runs' contents, or of all that its callers wrote."""
    folder = settings.data_dir.resolve() / "keys"
    given = settings.wan_worker_api_key
    worker_key = given.get_secret_value() if given is not None else read_or_make(folder / "worker_key")
    local_key = read_or_make(folder / "local_api_key")
    keys, quotas, pool = Keys(operate.access_pool), Quotas(operate.access_pool), operate.pool
    operate.epoch.on_move(keys.drop)

    async def first_keys() -> None:
        await create_key(pool, "local", ["chat", "images", "pipelines", "admin"], secret=local_key)
        await create_key(pool, "workers", ["worker"], secret=worker_key)

    return Access(
        keys=keys,
        quotas=quotas,
        worker_key=worker_key,
        routers=[
            alias_routes.router(keys, pool),
            key_routes.router(keys, pool),
            tenant_routes.router(keys, pool, erase_contents, erase_texts),
        ],
        first=[first_keys],
        watchers={"quotas": quotas.keep, "places at once": quotas.slots.keep},
    )
