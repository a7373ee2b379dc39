"""100 prompts through every job type on the real small model, and what the studio adds to the engine's own time.

    python -m bench.enhance [PROMPTS]     # starts a studio of its own; its result in bench/results/enhance.json

A rung of the ladder gets ten minutes here, so that a busy machine does not decide which one answers.

The last part kills the engine and asks again: answers still come, marked emergency_fallback; later it is back.
"""

import asyncio
import json
import os
import random
import signal
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp

from orchestrator.legacy.enhance import job_types
from tests.e2e.studio import Studio, command, data_directory, running_studio

ROOT = Path(__file__).resolve().parents[1]
SUBJECTS = (
    *("a lighthouse", "a red bicycle", "an old library", "two dogs on a beach", "a glass of water", "a mountain lake"),
    *("a violin maker", "a night train", "a paper boat", "a rooftop garden"),
)
PLACES = (
    *("in the rain", "at dawn", "under a full moon", "in an empty street", "by the sea", "in a snowy forest"),
    *("on a windy hill", "inside a greenhouse", "near a river", "in a crowded market"),
)
TOGETHER = 32  # as many as the engine takes in a step
CALLS = 40
RUNG_SECONDS = 600
PATIENCE = aiohttp.ClientTimeout(total=3 * RUNG_SECONDS)
TARGETS = {"enhancement_seconds": [1, 3], "health_and_memory_seconds": 1, "overhead_ms_p50": 20}


async def main(prompts: int) -> None:
    with data_directory(ROOT / "data" / "models") as data:
        patient = data / "job_types.toml"
        patient.write_text(
            job_types.BUNDLED.read_text("utf-8").replace("\nmax_tokens", f"\nseconds = {RUNG_SECONDS}\nmax_tokens")
        )
        async with running_studio(data, JOB_TYPES=str(patient)) as studio:
            await measure(studio, prompts)


async def measure(studio: Studio, prompts: int) -> None:
    """All parts, one after the other; what is known is written after each."""
    said: dict[str, Any] = {"prompts": prompts, "load_1m_before": round(os.getloadavg()[0], 1)}
    said |= {"cores": os.cpu_count(), "targets": TARGETS, "rung_seconds": RUNG_SECONDS, "together": TOGETHER}
    # A connection for each call: the engine closes its idle ones sooner than a busy machine comes back to them.
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(connector=connector, timeout=PATIENCE) as session:
        parts: dict[str, Callable[[], Awaitable[Any]]] = {
            "job_types": lambda: _through_all(studio, session, prompts),
            "overhead": lambda: _overhead(studio, session),
            "alone": lambda: _alone(studio, session),
            "emergency": lambda: _without_engine(studio, session),
            "back_after_s": lambda: _back(studio, session),
        }
        for name, part in parts.items():
            said[name] = await part()
            said["load_1m_after"] = round(os.getloadavg()[0], 1)
            print({name: said[name]}, flush=True)
            (ROOT / "bench" / "results" / "enhance.json").write_text(json.dumps(said, indent=1) + "\n")


async def _through_all(studio: Studio, session: aiohttp.ClientSession, prompts: int) -> dict[str, Any]:
    """Each prompt by each job type in turn; then all again, from the cache as far as it reaches."""
    kinds = job_types.read()
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in kinds}
    places = asyncio.Semaphore(TOGETHER)

    async def one(number: int, name: str) -> dict[str, Any]:
        prompt = f"{SUBJECTS[number % 10]} {PLACES[number // 10 % 10]}"
        async with places:
            return await _post(studio, session, "/enhance", {"prompt": prompt, "job_type": name})

    names = list(kinds)
    asked = [(number, names[number % len(names)]) for number in range(prompts)]
    for told in await asyncio.gather(*(one(number, name) for number, name in asked)):
        found[told["job_type"]].append(told)
    began = time.perf_counter()
    again = await asyncio.gather(*(one(number, name) for number, name in asked[-50:]))
    return {
        "again_from_cache": sum(told["cache_hit"] for told in again) / len(again),
        "seconds_for_50_cached": round(time.perf_counter() - began, 3),
        **{name: _summary(kinds[name].target, told) for name, told in found.items() if told},
    }


def _summary(target: int | None, told: list[dict[str, Any]]) -> dict[str, Any]:
    counts = [
        (answer.get("sdxl_optimizations") or answer.get("wan_optimizations") or {}).get("token_count", 0)
        for answer in told
    ]
    return {
        "answers": len(told),
        "within_target": sum(count <= target for count in counts) / len(told) if target else None,
        "most_tokens": max(counts) if target else None,
        "score_mean": round(statistics.mean(answer["quality_score"] for answer in told), 3),
        "seconds_p50": round(statistics.median(answer["generation_time"] for answer in told), 2),
        "sources": {
            s: sum(a["enhancement_source"] == s for a in told) for s in {a["enhancement_source"] for a in told}
        },
    }


async def _alone(studio: Studio, session: aiohttp.ClientSession) -> dict[str, float]:
    """Seconds of one enhancement with no other beside it: made, and from the cache."""
    asked = [{"prompt": f"a stone bridge {n} times", "job_type": "sdxl_image_fast"} for n in range(3)]
    taken: dict[str, list[float]] = {"made": [], "cached": []}
    for name in taken:
        for body in asked:
            began = time.perf_counter()
            await _post(studio, session, "/enhance", body)
            taken[name].append(time.perf_counter() - began)
    return {f"{name}_seconds_p50": round(statistics.median(times), 3) for name, times in taken.items()}


async def _overhead(studio: Studio, session: aiohttp.ClientSession) -> dict[str, Any]:
    """Medians in ms of the same short call: at the engine, through the worker, through the orchestrator; in an order
    that changes each time, and compared within each time."""
    messages = [{"role": "user", "content": "Say hello."}]
    worker_key = (studio.data / "keys" / "worker_key").read_text().strip()
    worker = f"http://127.0.0.1:{studio.port['CHAT_PORT']}"
    engine = studio.engine()
    engine_key = engine.environ()["VLLM_API_KEY"]
    model = command(engine)[command(engine).index("--served-model-name") + 1]
    sampling = {"max_tokens": 2, "temperature": 0}
    ways: dict[str, Callable[[], Awaitable[Any]]] = {
        "engine": lambda: _at(
            session,
            f"http://127.0.0.1:{studio.engine_port()}/v1/chat/completions",
            engine_key,
            {"model": model, "messages": messages, **sampling, "top_p": 0.9},
        ),
        "worker": lambda: _at(session, f"{worker}/chat", worker_key, {"messages": messages, **sampling}),
        "orchestrator": lambda: _post(studio, session, "/chat", {"messages": messages, **sampling}),
        "worker_health": lambda: _get(session, f"{worker}/health", worker_key),
        "worker_memory_status": lambda: _get(session, f"{worker}/memory/status", worker_key),
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(CALLS):
        for name, ask in random.sample(list(ways.items()), len(ways)):
            began = time.perf_counter()
            await ask()
            taken[name].append((time.perf_counter() - began) * 1000)
    medians = {name: round(statistics.median(times), 2) for name, times in taken.items()}
    added = {
        f"{name}_adds_ms_p50": round(
            statistics.median(a - b for a, b in zip(taken[name], taken["engine"], strict=True)), 2
        )
        for name in ("worker", "orchestrator")
    }
    ratios = {
        f"{name}_to_engine_p50": round(
            statistics.median(a / b for a, b in zip(taken[name], taken["engine"], strict=True)), 3
        )
        for name in ("worker", "orchestrator")
    }
    return {"ms_p50": medians, **added, **ratios, "calls": CALLS}


async def _without_engine(studio: Studio, session: aiohttp.ClientSession) -> dict[str, Any]:
    """The engine is killed; its worker starts it again meanwhile."""
    os.kill(studio.engine().pid, signal.SIGKILL)
    told = await asyncio.gather(*(_source(studio, session, number) for number in range(10)))
    return {"answers": len(told), "sources": sorted(set(told))}


async def _back(studio: Studio, session: aiohttp.ClientSession) -> float:
    """Seconds until the recipe answers again."""
    began, number = time.perf_counter(), 10
    while await _source(studio, session, number) != "worker_fallback":
        number += 1
        await asyncio.sleep(1)
    return round(time.perf_counter() - began, 1)


async def _source(studio: Studio, session: aiohttp.ClientSession, number: int) -> str:
    body = {"prompt": f"a new boat {number}", "job_type": "sdxl_image_fast"}
    source: str = (await _post(studio, session, "/enhance", body))["enhancement_source"]
    return source


async def _post(studio: Studio, session: aiohttp.ClientSession, path: str, body: Any) -> dict[str, Any]:
    return await _at(session, studio.base_url.removesuffix("/v1") + path, studio.key, body)


async def _at(session: aiohttp.ClientSession, url: str, key: str, body: Any) -> dict[str, Any]:
    async with session.post(url, json=body, headers={"authorization": f"Bearer {key}"}) as response:
        answer: dict[str, Any] = await response.json(content_type=None)
        assert response.status == 200, answer
        return answer


async def _get(session: aiohttp.ClientSession, url: str, key: str) -> None:
    async with session.get(url, headers={"authorization": f"Bearer {key}"}) as response:
        assert response.status == 200
        await response.read()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 100))
