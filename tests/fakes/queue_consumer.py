"""A consumer of its own process, to be killed: `python -m tests.fakes.queue_consumer DSN REDIS QUEUE KIND SECONDS`."""

import asyncio
import random
import sys
from types import SimpleNamespace
from typing import Any

from core.db.pool import open_pool
from orchestrator.legacy.intake import Intake
from orchestrator.legacy.queue_commands import over_redis
from orchestrator.legacy.queue_job import Job
from orchestrator.legacy.queue_ledger import Ledger
from orchestrator.legacy.queue_runner import Rules
from orchestrator.operate.seal import Seal
from orchestrator.runs.caller import Caller


class Echo:
    """A job's work: it takes a moment, and answers with what it was given."""

    async def run(self, job: Job, caller: Caller) -> dict[str, Any]:
        await asyncio.sleep(random.uniform(0, 0.01))
        return dict(job.payload)


async def nobody(job: str) -> Any:
    return SimpleNamespace(key=SimpleNamespace(tenant="default"))


async def main(dsn: str, url: str, name: str, kind: str, visibility: float) -> None:
    rules = Rules(name=name, kind=kind, poll=0.05, concurrency=8, visibility=visibility, tries=50)
    async with open_pool(dsn, size=8) as pool:
        ledger = Ledger(pool, Seal(bytes(32)), name, visibility)
        await Intake(rules, ledger, lambda: over_redis(url), handler=Echo(), caller=nobody).run()


if __name__ == "__main__":
    _, dsn, url, name, kind, visibility = sys.argv
    asyncio.run(main(dsn, url, name, kind, float(visibility)))
