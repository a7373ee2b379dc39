"""100 prompts through every job type on the real small model, and what the studio adds to the engine's own time.

    python -m bench.enhance [PROMPTS]     # starts a studio of its own; its result in bench/results/enhance.json

The last part stops the engine and asks again: answers still come, marked emergency_fallback.
"""

import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp

from orchestrator.enhance import job_types
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
TOGETHER = 6
CALLS = 20


async def main(prompts: int) -> None:
    models = ROOT / "data" / "models"
    with data_directory(models) as data:
        # A connection for each call: the engine closes its idle ones sooner than a busy machine comes back to them.
        connector = aiohttp.TCPConnector(force_close=True)
        async with running_studio(data) as studio, aiohttp.ClientSession(connector=connector) as session:
            said: dict[str, Any] = {"prompts": prompts, "load_1m_before": round(os.getloadavg()[0], 1)}
            said["overhead"] = await _overhead(studio, session)
            print(said, flush=True)
            said["job_types"] = await _through_all(studio, session, prompts)
            print(said, flush=True)
            said["emergency"] = await _without_engine(studio, session)
            said |= {"load_1m_after": round(os.getloadavg()[0], 1), "cores": os.cpu_count()}
    (ROOT / "bench" / "results" / "enhance.json").write_text(json.dumps(said, indent=1) + "\n")
    print(json.dumps(said, indent=1))


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


async def _overhead(studio: Studio, session: aiohttp.ClientSession) -> dict[str, Any]:
    """Medians in ms of the same short call: at the engine, through the worker, through the orchestrator; by turns."""
    messages = [{"role": "user", "content": "Say hello."}]
    worker_key = (studio.data / "keys" / "worker_key").read_text().strip()
    worker = f"http://127.0.0.1:{studio.port['CHAT_PORT']}"
    engine = studio.engine()
    engine_key = engine.environ()["VLLM_API_KEY"]
    model = command(engine)[command(engine).index("--served-model-name") + 1]
    sampling = {"max_tokens": 4, "temperature": 0}
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
        for name, ask in ways.items():
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
    return {"ms_p50": medians, **added, "calls": CALLS}


async def _without_engine(studio: Studio, session: aiohttp.ClientSession) -> dict[str, Any]:
    """The chat worker is stopped for as long as this takes."""
    worker = studio.service("llm")
    worker.suspend()
    try:
        await asyncio.sleep(16)  # its lease runs out
        told = await asyncio.gather(
            *(
                _post(studio, session, "/enhance", {"prompt": f"a new boat {number}", "job_type": "sdxl_image_fast"})
                for number in range(10)
            )
        )
    finally:
        worker.resume()
    return {"answers": len(told), "sources": sorted({answer["enhancement_source"] for answer in told})}


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
