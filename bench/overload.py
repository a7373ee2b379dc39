"""Many times more requests than there is capacity for: `python -m bench.overload [SECONDS]`.

A real orchestrator in front of a stand-in engine of few places. A heavy tenant offers fifty times what the engine can
do, in open loop; a light one a quarter of it. Printed: goodput over capacity, how fast refusals come, what the light
tenant got, the orchestrator's memory. Load generator and server share the machine, so the times of refusals are given
twice: as the client saw them, beside how late its own loop was, and by the server's access log.
"""

import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from bench.harness import Program, Studio, chat_worker, free_port, machine, python, quantile, running, save, studio

PLACES, SERVICE_SECONDS, TIMES, LIGHT_SHARE = 8, 0.4, 50, 0.25
CAPACITY = PLACES / SERVICE_SECONDS  # requests a second
QUEUE_SECONDS = 5
KEPT_SECONDS = 30.0  # a shorter run is not kept
TICK = 0.01
LIMIT_MS = 50  # within which a refusal is to come
BODY = json.dumps({"model": "small", "messages": [{"role": "user", "content": "one"}], "max_tokens": 1}).encode()


@dataclass
class Tenant:
    """`rate`: requests a second that it offers, whatever becomes of them."""

    key: str
    rate: float
    statuses: Counter[int] = field(default_factory=Counter)
    refused_ms: list[float] = field(default_factory=list)
    served_seconds: list[float] = field(default_factory=list)
    without_retry_after: int = 0


async def measured(seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="soundstage-") as name:
        folder, port = Path(name), free_port()
        argv = python("tests.fakes.fake_engine", "--model", "any", "--port", port, "--served-model-name", "small")
        env = {"LOG_LEVEL": "warning", "MAX_REQUESTS": "20000", "QUEUE_SECONDS": str(QUEUE_SECONDS)}
        worker = chat_worker("w", port, "small", capacity=PLACES)
        async with (
            running(Program("engine", argv, folder, port=port)) as engine,
            studio(folder, worker, **env) as whole,
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60)) as session,
        ):
            await session.post(f"{engine.url}/fake", json={"first_token_seconds": SERVICE_SECONDS})
            found = await _overloaded(session, whole, seconds)
            log = whole.program.log.read_text(errors="replace")
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    refused = [line["ms"] for line in lines if line.get("status") == 429]
    return {**found, "refused_ms_at_the_server": _spread(refused), "machine": machine()}


async def _overloaded(session: aiohttp.ClientSession, whole: Studio, seconds: float) -> dict[str, Any]:
    rates = {"heavy": TIMES * CAPACITY, "light": LIGHT_SHARE * CAPACITY}
    tenants = {name: Tenant(await whole.new_key(session, name, name), rate) for name, rate in rates.items()}
    memory: list[float] = []
    late: list[float] = []
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_watch(whole.program, memory, seconds))
        for tenant in tenants.values():
            tasks.create_task(_offered(session, whole.url, tenant, seconds, late, tasks))
    return {**_figures(tenants, memory, seconds), "client_late_ms": _spread(late)}


async def _offered(
    session: aiohttp.ClientSession,
    url: str,
    tenant: Tenant,
    seconds: float,
    late: list[float],
    tasks: asyncio.TaskGroup,
) -> None:
    began, sent = time.monotonic(), 0
    while (now := time.monotonic() - began) < seconds:
        while sent < now * tenant.rate:
            sent += 1
            tasks.create_task(_one(session, url, tenant))
        due = time.monotonic() + TICK
        await asyncio.sleep(TICK)
        late.append((time.monotonic() - due) * 1000)


async def _one(session: aiohttp.ClientSession, url: str, tenant: Tenant) -> None:
    headers = {"authorization": f"Bearer {tenant.key}", "content-type": "application/json"}
    began = time.monotonic()
    async with session.post(f"{url}/v1/chat/completions", data=BODY, headers=headers) as answer:
        taken = time.monotonic() - began
        await answer.read()
    tenant.statuses[answer.status] += 1
    if answer.status == 200:
        tenant.served_seconds.append(time.monotonic() - began)
    elif answer.status == 429:
        tenant.refused_ms.append(taken * 1000)
        tenant.without_retry_after += "retry-after" not in answer.headers


async def _watch(program: Program, memory: list[float], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not memory or time.monotonic() < until:
        memory.append(program.resident_mib())
        await asyncio.sleep(1)


def _figures(tenants: dict[str, Tenant], memory: list[float], seconds: float) -> dict[str, Any]:
    served = {name: tenant.statuses[200] for name, tenant in tenants.items()}
    offered = {name: tenant.statuses.total() for name, tenant in tenants.items()}
    half = memory[len(memory) // 2 :]
    return {
        "seconds": seconds,
        "capacity_a_second": CAPACITY,
        "offered": offered,
        "statuses": {name: dict(tenant.statuses) for name, tenant in tenants.items()},
        "goodput_of_capacity": round(sum(served.values()) / (CAPACITY * (seconds + QUEUE_SECONDS)), 3),
        "light_served_of_offered": round(served["light"] / max(1, offered["light"]), 3),
        "median_seconds": {name: round(quantile(each.served_seconds, 0.5), 2) for name, each in tenants.items()},
        "refused_ms": _spread(tenants["heavy"].refused_ms),
        "refused_without_retry_after": sum(tenant.without_retry_after for tenant in tenants.values()),
        "resident_mib": {"first": memory[0], "half": half[0], "last": memory[-1]},
    }


def _spread(milliseconds: Sequence[float]) -> dict[str, float]:
    within = sum(each < LIMIT_MS for each in milliseconds) / max(1, len(milliseconds))
    found = {f"p{share}": round(quantile(milliseconds or [0.0], share / 100), 1) for share in (50, 99, 100)}
    return {**found, f"below_{LIMIT_MS}": round(within, 4)}


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else KEPT_SECONDS
    found = asyncio.run(measured(seconds))
    if seconds >= KEPT_SECONDS:
        save("overload", found)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
