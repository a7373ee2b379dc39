"""Many times more requests than there is capacity for: `python -m bench.overload [SECONDS]`.

A real orchestrator in front of a stand-in engine of few places. A heavy tenant offers fifty times what the engine can
do, in open loop; a light one a quarter of it. Printed: goodput beside capacity, how fast the refused were told, what
the light tenant got, and the orchestrator's memory. Load generator and server share the machine, so the times of
refusals are given twice: as the client saw them, beside how late its own loop was, and by the server's access log.
"""

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psutil  # type: ignore[import-untyped,unused-ignore]

from bench.relay.processes import free_port, python, running, without_settings
from core.keys import new_key
from core.registration import Registrar
from core.wire.workers import Announcement

PLACES, SERVICE_SECONDS, TIMES, LIGHT_SHARE = 8, 0.4, 50, 0.25
CAPACITY = PLACES / SERVICE_SECONDS  # requests a second
TICK = 0.01
TOLD_MS = 50  # who is refused is told within so long
RESULTS = Path(__file__).parent / "results"
BODY = json.dumps({"model": "small", "messages": [{"role": "user", "content": "one"}], "max_tokens": 1}).encode()


@dataclass
class Seen:
    """Of one tenant."""

    statuses: Counter[int] = field(default_factory=Counter)
    refused_ms: list[float] = field(default_factory=list)
    served_s: list[float] = field(default_factory=list)
    without_retry_after: int = 0


async def measured(seconds: float) -> dict[str, object]:
    with tempfile.TemporaryDirectory(prefix="soundstage-") as name:
        folder, key = Path(name), new_key()
        engine_port, port = free_port(), free_port()
        fake = python(
            "tests.fakes.fake_engine", "--model", "any", "--port", engine_port, "--served-model-name", "small"
        )
        env = {**without_settings(folder), "PORT": str(port), "DATA_DIR": str(folder), "WAN_WORKER_API_KEY": key}
        env |= {"LOG_LEVEL": "warning", "MAX_REQUESTS": "20000", "QUEUE_SECONDS": "5"}
        async with (
            running("engine", fake, engine_port, folder),
            running("orchestrator", python("orchestrator"), port, folder, env) as server,
        ):
            registrar = Registrar(f"http://127.0.0.1:{port}", key, lambda: _worker(engine_port))
            heartbeat = asyncio.create_task(registrar.run())
            try:
                return await _overloaded(folder, port, engine_port, registrar, server.child.pid, seconds)
            finally:
                heartbeat.cancel()
                await asyncio.wait([heartbeat])


def _worker(port: int) -> Announcement:
    models = [{"id": "small", "abilities": ["chat"]}]
    return Announcement.model_validate(
        {"id": "w", "kind": "chat", "url": f"http://127.0.0.1:{port}", "models": models, "capacity": PLACES}
    )


async def _overloaded(
    folder: Path, port: int, engine: int, registrar: Registrar, pid: int, seconds: float
) -> dict[str, object]:
    url = f"http://127.0.0.1:{port}"
    admin = (folder / "keys" / "local_api_key").read_text().strip()
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=60)
    async with aiohttp.ClientSession(connector=connector) as session:
        await session.post(f"http://127.0.0.1:{engine}/fake", json={"first_token_seconds": SERVICE_SECONDS})
        keys = {tenant: await _key(session, url, admin, tenant) for tenant in ("heavy", "light")}
        while not registrar.registered:  # noqa: ASYNC110 - it has no event to wait for
            await asyncio.sleep(0.05)
        seen = {"heavy": Seen(), "light": Seen()}
        memory: list[float] = []
        lag: list[float] = []
        process = max(psutil.Process(pid).children(recursive=True), key=lambda each: each.memory_info().rss)
        rates = {"heavy": TIMES * CAPACITY, "light": LIGHT_SHARE * CAPACITY}
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_watch(process, memory, seconds))
            for tenant, rate in rates.items():
                tasks.create_task(_offered(session, url, keys[tenant], rate, seconds, seen[tenant], lag, tasks))
    log = (folder / "orchestrator.log").read_text(errors="replace").splitlines()
    logged = [line for line in map(_line, log) if line.get("status") == 429]
    return {
        **_figures(seen, memory, seconds),
        "client_late_ms": _spread(lag),
        "refused_ms_at_the_server": _spread([line["ms"] for line in logged]),
    }


def _line(text: str) -> dict[str, Any]:
    """One of the access log; nothing where it is another."""
    try:
        found: dict[str, Any] = json.loads(text)
    except ValueError:
        return {}
    return found


def _spread(milliseconds: Sequence[float]) -> dict[str, float]:
    found = sorted(milliseconds) or [0.0]
    within = sum(each < TOLD_MS for each in found) / len(found)
    return {
        "p50": round(found[len(found) // 2], 1),
        "p99": round(found[int(len(found) * 0.99)], 1),
        "most": round(found[-1], 1),
        f"below_{TOLD_MS}": round(within, 4),
    }


async def _key(session: aiohttp.ClientSession, url: str, admin: str, tenant: str) -> str:
    headers = {"authorization": f"Bearer {admin}"}
    await session.put(f"{url}/v1/tenants/{tenant}", json={}, headers=headers)
    body = {"name": tenant, "scopes": ["chat"], "tenant": tenant}
    async with session.post(f"{url}/v1/keys", json=body, headers=headers) as answer:
        secret: str = (await answer.json())["secret"]
        return secret


async def _offered(
    session: aiohttp.ClientSession,
    url: str,
    key: str,
    rate: float,
    seconds: float,
    seen: Seen,
    lag: list[float],
    tasks: asyncio.TaskGroup,
) -> None:
    """So many requests a second, whatever becomes of them."""
    began, sent = time.monotonic(), 0
    while (now := time.monotonic() - began) < seconds:
        while sent < now * rate:
            sent += 1
            tasks.create_task(_one(session, url, key, seen))
        due = time.monotonic() + TICK
        await asyncio.sleep(TICK)
        lag.append((time.monotonic() - due) * 1000)


async def _one(session: aiohttp.ClientSession, url: str, key: str, seen: Seen) -> None:
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    began = time.monotonic()
    async with session.post(f"{url}/v1/chat/completions", data=BODY, headers=headers) as answer:
        taken = time.monotonic() - began
        await answer.read()
    seen.statuses[answer.status] += 1
    if answer.status == 200:
        seen.served_s.append(time.monotonic() - began)
    elif answer.status == 429:
        seen.refused_ms.append(taken * 1000)
        seen.without_retry_after += "retry-after" not in answer.headers


async def _watch(process: "psutil.Process", memory: list[float], seconds: float) -> None:
    for _ in range(int(seconds)):
        memory.append(process.memory_info().rss / 2**20)
        await asyncio.sleep(1)


def _figures(seen: dict[str, Seen], memory: list[float], seconds: float) -> dict[str, object]:
    served = {tenant: each.statuses[200] for tenant, each in seen.items()}
    half = memory[len(memory) // 2 :]
    return {
        "seconds": seconds,
        "capacity_per_s": CAPACITY,
        "offered": {tenant: each.statuses.total() for tenant, each in seen.items()},
        "statuses": {tenant: dict(each.statuses) for tenant, each in seen.items()},
        "goodput_of_capacity": round(sum(served.values()) / (CAPACITY * (seconds + 5)), 3),
        "goodput_per_s": round(sum(served.values()) / seconds, 2),
        "light_served_of_offered": round(served["light"] / max(1, seen["light"].statuses.total()), 3),
        "light_median_s": round(statistics.median(seen["light"].served_s or [0]), 2),
        "heavy_median_s": round(statistics.median(seen["heavy"].served_s or [0]), 2),
        "refused_ms": _spread(seen["heavy"].refused_ms),
        "refused_without_retry_after": sum(each.without_retry_after for each in seen.values()),
        "resident_mib": {"first": round(memory[0], 1), "last": round(memory[-1], 1)},
        "second_half_growth_mib": round(half[-1] - half[0], 1),
        "load_1m": round(os.getloadavg()[0], 1),
        "cores": os.cpu_count(),
    }


def main() -> None:
    found = asyncio.run(measured(float(sys.argv[1]) if len(sys.argv) > 1 else 30.0))
    text = json.dumps(found, indent=1)
    (RESULTS / "overload.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
