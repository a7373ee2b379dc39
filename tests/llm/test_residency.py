"""Load, unload, sleep, crash and the ladder, with real child processes whose memory is really held."""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from llm.catalogue import Model
from tests.fakes.chat_worker import ChatWorker, base, chat_worker, instruct
from tests.fakes.wait import answers, soon

pytestmark = pytest.mark.slow

SLEEP = "--enable-sleep-mode"
TIGHT = 0.36  # GB


def pair(folder: Path, *, sleep: bool = True, **given: Any) -> list[Model]:
    """Two models of 150 MB besides their Python: TIGHT holds one, and what the other keeps when it sleeps."""
    args = ("--fake-ballast-mb", "150", *((SLEEP,) if sleep else ()))
    own = {"args": args, "memory_gb": 0.2, **given}
    return [instruct(folder, **own), base(folder, **own)]


@pytest.fixture(scope="module")
async def tight(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ChatWorker]:
    """A worker that can hold one of its two models at a time."""
    folder = tmp_path_factory.mktemp("tight")
    async with chat_worker(folder, pair(folder), llm_memory_gb=TIGHT) as worker:
        yield worker


async def states(worker: ChatWorker) -> dict[str, str]:
    return {name: engine["state"] for name, engine in (await worker.get("/health"))["engines"].items()}


async def post(worker: ChatWorker, path: str, **body: Any) -> httpx2.Response:
    return await soon(worker.http.post(path, json=body))


async def test_load_unload_and_what_is_measured(tmp_path: Path) -> None:
    args = ("--fake-ballast-mb", "200", SLEEP)
    models = [instruct(tmp_path, args=args, memory_gb=0.3), base(tmp_path, args=args, memory_gb=0.3)]
    async with chat_worker(tmp_path, models, llm_memory_gb=2) as worker:
        full = await worker.get("/memory/status")
        assert (full["instruct_loaded"], full["base_loaded"], full["device_type"]) == (True, True, "cpu")
        assert (full["instruct_device"], full["model_device"]) == ("cpu", "cpu")
        assert full["total_vram"] >= full["available_vram"] > 0
        told = (await post(worker, "/memory/unload", which="base")).json()
        assert (told["success"], told["instruct_loaded"], told["base_loaded"]) == (True, True, False)
        assert told["engines"]["plain"]["state"] == "asleep"
        assert 0.15 < full["allocated_vram"] - told["allocated_vram"] < 0.3, "the ballast of one engine is gone"
        told = (await post(worker, "/memory/unload", which="all")).json()
        assert (told["model_loaded"], told["model_device"]) == (False, None)
        assert (await post(worker, "/memory/load", which="all")).json()["model_loaded"] is True
        assert set((await states(worker)).values()) == {"ready"}
        assert (await worker.get("/health"))["stats"]["model_loads"] == 4


async def test_a_load_that_does_not_fit_is_refused_with_figures_or_forced(tmp_path: Path) -> None:
    models = pair(tmp_path, sleep=False, memory_gb=0.6)
    async with chat_worker(tmp_path, models, llm_memory_gb=1) as worker:
        first, second = ("small", "plain") if (await states(worker))["small"] == "ready" else ("plain", "small")
        which = {"small": "instruct", "plain": "base"}[second]
        assert (await states(worker))[second] == "unloaded"
        refused = await post(worker, "/memory/load", which=which)
        assert refused.status_code == 409
        error = refused.json()["error"]
        assert (error["code"], error["param"]) == ("model_does_not_fit", "which")
        for figure in ("0.60 GB", "0.40 GB of 1.00 GB", "force"):
            assert figure in error["message"], error["message"]
        told = (await post(worker, "/memory/load", which=which, force=True)).json()
        assert {name: engine["state"] for name, engine in told["engines"].items()} == {
            first: "unloaded",
            second: "ready",
        }
        assert set(worker.engines()) == {second}, "the other's process is gone"


async def test_a_pinned_model_stays(tmp_path: Path) -> None:
    models = [instruct(tmp_path, memory_gb=0.6), base(tmp_path / "none", memory_gb=0.6)]
    (tmp_path / "none").mkdir()
    async with chat_worker(tmp_path, models[:1], llm_memory_gb=1, llm_pinned=["small"]) as worker:
        refused = await post(worker, "/memory/unload", which="instruct")
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "model_pinned")
        missing = await post(worker, "/memory/load", which="base")
        assert (missing.status_code, missing.json()["error"]["param"]) == (404, "which")
        for path in ("/memory/load", "/memory/unload"):
            for wrong, param in (({"which": "both"}, "which"), ({}, "which"), ({"which": "all", "more": 1}, "more")):
                refused = await post(worker, path, **wrong)
                assert (refused.status_code, refused.json()["error"]["param"]) == (422, param), refused.text
        assert (await worker.chat()).status_code == 200


async def test_a_request_for_a_model_that_is_away_brings_it(tight: ChatWorker) -> None:
    """Asleep ones are announced and ready to serve; who asks waits for the switch."""
    await answers(tight.ready)
    for model in ("plain", "small", "plain"):
        answer = await tight.chat(model=model)
        assert answer.status_code == 200, answer.text
        assert (await states(tight))[model] == "ready"
    assert sorted((await states(tight)).values()) in (["asleep", "ready"], ["ready", "unloaded"])


async def test_at_the_second_level_of_sleep_the_weights_are_read_again(tmp_path: Path) -> None:
    """Without that an engine answers, and says nonsense."""
    async with chat_worker(tmp_path, pair(tmp_path), llm_memory_gb=TIGHT, llm_sleep_level=2) as worker:
        pids: dict[str, int] = {}
        for model in ("small", "plain", "small"):
            answer = await worker.chat(model=model)
            assert answer.json()["choices"][0]["message"]["content"] == "one two"
            before = pids.setdefault(model, worker.engines()[model].process.pid)
            assert before == worker.engines()[model].process.pid, "it slept, and was not started anew"


async def test_fifty_random_switches_under_traffic_lose_no_request(tight: ChatWorker) -> None:
    chance = random.Random(7)
    found: list[int] = []
    before = (await tight.get("/health"))["stats"]

    async def ask(model: str) -> None:
        if chance.random() < 0.5:
            answer = await tight.chat(model=model)
        else:
            answer = await tight.http.post(
                "/chat", json={"model": model, "messages": [{"role": "user", "content": "x"}]}
            )
        found.append(answer.status_code)

    async def traffic(number: int) -> None:
        for _ in range(25):
            await ask(chance.choice(("small", "plain")))

    async def orders() -> None:
        for _ in range(50):
            which, path = chance.choice(("instruct", "base")), chance.choice(("load", "unload"))
            body = {"which": which, **({"force": True} if path == "load" else {})}
            answer = await tight.http.post(f"/memory/{path}", json=body)
            assert answer.status_code == 200, answer.text

    async with asyncio.timeout(120):
        await asyncio.gather(orders(), *(traffic(number) for number in range(6)))
    assert (len(found), set(found)) == (150, {200})
    after = (await tight.get("/health"))["stats"]
    assert after["requests_served"] - before["requests_served"] == 150
    assert after["model_loads"] - before["model_loads"] > 10


async def test_running_requests_end_before_their_model_gives_way(tight: ChatWorker) -> None:
    await tight.chat(model="small")
    engine = tight.engines()["small"]
    await engine.behave(first_token_seconds=1.0)
    slow = asyncio.ensure_future(tight.chat(model="small"))

    async def running() -> bool:
        return bool((await engine.state())["running"] == 1)

    await answers(running)
    other = asyncio.ensure_future(tight.chat(model="plain"))
    assert (await soon(slow)).status_code == 200
    assert (await soon(other)).status_code == 200
    assert (await engine.state())["aborted"] == 0


async def test_waits_are_bounded(tmp_path: Path) -> None:
    """In time, for a model whose requests do not end; in number, for those who wait."""
    given: dict[str, Any] = {
        "llm_memory_gb": TIGHT,
        "llm_load_wait_seconds": 0.5,
        "llm_drain_seconds": 0.2,
        "llm_load_waiting": 2,
    }
    async with chat_worker(tmp_path, pair(tmp_path), **given) as worker:
        await answers(worker.ready)
        busy, free = ("small", "plain") if (await states(worker))["small"] == "ready" else ("plain", "small")
        await worker.engines()[busy].behave(token_seconds=30.0)
        held = asyncio.ensure_future(worker.chat(model=busy))

        async def running() -> bool:
            return bool((await worker.engines()[busy].state())["running"] == 1)

        await answers(running)
        found = await soon(asyncio.gather(*(worker.chat(model=free) for _ in range(4))))
        codes = sorted((answer.status_code, answer.json()["error"]["code"]) for answer in found)
        assert codes == [(429, "worker_full")] * 2 + [(503, "model_busy")] * 2
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in found)
        held.cancel()
        await soon(asyncio.wait([held]))

        async def served() -> bool:
            return (await worker.chat(model=free)).status_code == 200

        await answers(served)


async def test_one_that_dies_asleep_is_started_anew_when_it_is_asked_for(tight: ChatWorker) -> None:
    await tight.chat(model="small")
    await tight.chat(model="plain")
    assert (await states(tight))["small"] == "asleep"
    tight.engines()["small"].process.kill()

    async def gone() -> bool:
        return (await states(tight))["small"] == "unloaded"

    await answers(gone)
    assert (await tight.chat(model="small")).status_code == 200


async def test_an_engine_that_dies_of_memory_comes_back_with_less_and_says_so(tmp_path: Path) -> None:
    """It asks for more than the system gives it: the first start fails, the second asks for half."""
    args = ("--max-num-seqs", "16", "--fake-cache-kb", "10", "--fake-limit-mb", "250")
    models = [instruct(tmp_path, max_model_len=2048, args=args, memory_gb=0.1)]
    async with chat_worker(tmp_path, models, wait=False) as worker:
        await answers(worker.ready, "an engine that fits")
        reduced = (await worker.get("/memory/status"))["engines"]["small"]["reduced"]
        assert reduced == {"max_num_seqs": 8, "max_model_len": 2048, "deaths": 1}
        command = worker.engines()["small"].command
        assert command[command.index("--max-num-seqs") + 1] == "8"
        assert command[command.index("--max-model-len") + 1] == "2048"
        assert command.count("--max-num-seqs") == 1
        assert (await worker.get("/v1/models/small"))["max_model_len"] == 2048
        assert (await worker.chat()).status_code == 200


async def test_a_death_of_memory_while_serving_goes_one_rung_down(tmp_path: Path) -> None:
    async with chat_worker(tmp_path, [instruct(tmp_path)]) as worker:
        with pytest.raises(httpx2.HTTPError):
            await worker.engines()["small"].behave(die_saying="torch.OutOfMemoryError: CUDA out of memory.")

        async def returned() -> bool:
            engine = (await worker.get("/memory/status"))["engines"]["small"]
            return bool(engine["state"] == "ready" and engine["reduced"])

        await answers(returned)
        reduced = (await worker.get("/memory/status"))["engines"]["small"]["reduced"]
        assert reduced == {"max_num_seqs": 128, "max_model_len": 100, "deaths": 1}


async def test_what_is_said_of_the_model(tmp_path: Path) -> None:
    from tests.llm.test_weights import written

    written(tmp_path / "model.safetensors", {"a": ([1024, 1024], 2 << 20)})
    async with chat_worker(tmp_path, [instruct(tmp_path)]) as worker:
        info = await worker.get("/model/info")
        assert {name: info[name] for name in ("model_loaded", "model_path", "model_device", "device_type")} == {
            "model_loaded": True,
            "model_path": str(tmp_path),
            "model_device": "cpu",
            "device_type": "cpu",
        }
        assert (info["model_parameters"], info["model_size_gb"], info["is_eval_mode"]) == (1 << 20, 0.002, True)
        assert (info["cuda_available"], info["cuda_version"], info["gpu_name"]) == (False, None, None)
        assert info["torch_version"].startswith("2.")
        debug = await worker.get("/debug/model")
        assert (debug["active_model_type"], debug["instruct_loaded"], debug["base_loaded"]) == ("instruct", True, False)
        assert debug["paths"] == {"instruct": str(tmp_path), "base": None}
        assert debug["devices"] == {"instruct": "cpu", "base": None}
        assert debug["stats"] == (await worker.get("/health"))["stats"]
