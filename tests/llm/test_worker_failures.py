"""Engines that are starting, full, killed or failing, as a caller of the chat worker meets them."""

import asyncio
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from core.settings import SettingsError
from llm.app import create_app
from llm.settings import ChatWorkerSettings
from tests.fakes.chat_worker import ChatWorker, base, chat_worker, instruct
from tests.fakes.client import ask, request
from tests.fakes.orchestrator import Orchestrator, listening
from tests.fakes.serving import serving
from tests.fakes.wait import answers, soon

pytestmark = pytest.mark.slow


def never_ready(folder: Path) -> Path:
    """A Python whose engine starts for ever."""
    program = folder / "python"
    program.write_text("#!/bin/sh\nexec sleep 600\n")
    program.chmod(0o755)
    return program


async def test_while_an_engine_starts_callers_are_told_to_come_again(tmp_path: Path) -> None:
    async with chat_worker(tmp_path, [instruct(tmp_path)], wait=False, vllm_python=never_ready(tmp_path)) as worker:

        async def starting() -> bool:
            return bool((await worker.get("/health"))["engines"]["small"]["state"] == "starting")

        await answers(starting)
        answer = await worker.chat()
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_unavailable")
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert not await worker.ready()
        health = await worker.get("/health")
        assert (health["status"], health["model_loaded"]) == ("starting", False)
        assert (await worker.get("/v1/models"))["data"] == []
        assert (await worker.get("/worker/info"))["models_loaded"]["active_model_type"] is None


async def test_a_checkpoint_that_is_missing_or_broken_stops_no_other_engine(tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"cut of")
    broken = {"id": "broken", "aliases": ()}
    models = [instruct(tmp_path), base(tmp_path / "missing"), base(tmp_path / "broken", **broken)]
    async with chat_worker(tmp_path, models, wait=False) as worker:

        async def one_ready() -> bool:
            return (await worker.chat()).status_code == 200

        await answers(one_ready)
        for model in ("plain", "broken"):
            answer = await worker.chat(model=model)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_unavailable")


async def test_one_request_more_than_it_takes_is_a_429(tmp_path: Path) -> None:
    async with chat_worker(tmp_path, [instruct(tmp_path)], llm_max_requests=2) as worker:
        engine = worker.engines()["small"]
        await engine.behave(token_seconds=30.0)
        held = [asyncio.ensure_future(worker.chat()) for _ in range(2)]

        async def full() -> bool:
            return bool((await engine.state())["running"] == 2)

        await answers(full)
        answer = await worker.chat()
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "worker_full")
        assert int(answer.headers["retry-after"]) >= 1
        for task in held:
            task.cancel()
        await soon(asyncio.wait(held))
        await engine.behave(token_seconds=0.0)

        async def free() -> bool:
            return (await worker.chat()).status_code == 200

        await answers(free)


FAILURES = {500: (503, "engine_unavailable"), 503: (503, "engine_unavailable"), 400: (400, 400), 429: (429, 429)}


async def test_an_engines_failure_is_a_503_and_its_refusal_its_own(worker: ChatWorker) -> None:
    engine = worker.engines()["plain"]
    try:
        for status, wanted in FAILURES.items():
            await engine.behave(fail_with=status)
            for stream in (False, True):
                answer = await worker.chat(model="plain", stream=stream)
                assert (answer.status_code, answer.json()["error"]["code"]) == wanted
                assert ("retry-after" in answer.headers) == (answer.status_code == 503)
    finally:
        await engine.behave(fail_with=0)


async def test_an_engine_that_is_killed_comes_back_by_itself(tmp_path: Path) -> None:
    """Under traffic: whoever waits is told at once to come again, a stream that began ends with an error."""
    async with chat_worker(tmp_path, [instruct(tmp_path), base(tmp_path)]) as worker:
        engine = worker.engines()["small"]
        await engine.behave(first_token_seconds=30.0)
        waiting = [asyncio.ensure_future(worker.chat()) for _ in range(4)]

        async def busy() -> bool:
            return bool((await engine.state())["running"] == 4)

        await answers(busy)
        await engine.behave(first_token_seconds=0.0, token_seconds=30.0)
        async with worker.http.stream(
            "POST", "/v1/chat/completions", json={"model": "small", "prompt": "a b", "stream": True}
        ) as stream:
            events = stream.aiter_text()
            assert "a" in await soon(anext(events))
            engine.process.kill()
            rest = "".join([text async for text in events])
        assert '"code":"upstream_closed"' in rest
        for answer in await soon(asyncio.gather(*waiting)):
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_unavailable")
            assert int(answer.headers["retry-after"]) >= 1
        assert (await worker.chat(model="plain")).status_code == 200, "the other engine goes on"

        async def returned() -> bool:
            engines = (await worker.get("/health"))["engines"]
            assert engines["plain"] == {"state": "ready", "restarts": 0}
            return bool(engines["small"] == {"state": "ready", "restarts": 1})

        await answers(returned, "the engine's return")
        assert (await worker.chat()).status_code == 200
        assert (await worker.get("/health"))["stats"]["model_loads"] == 3


async def test_only_ready_models_are_announced_and_a_death_at_once(tmp_path: Path) -> None:
    """The orchestrator's lease is long here: only a change can bring the next announcement."""
    orchestrator = Orchestrator()

    async with (
        listening(orchestrator),
        chat_worker(
            tmp_path,
            [instruct(tmp_path)],
            wait=False,
            orchestrator_url=orchestrator.url,
            wan_worker_api_key="worker-key",
        ) as worker,
    ):
        assert await served_next(orchestrator) == []
        while not (names := await served_next(orchestrator)):
            pass
        assert names == ["small"]
        await answers(worker.ready)
        worker.engines()["small"].process.kill()
        assert await served_next(orchestrator) == []
        while not (names := await served_next(orchestrator)):
            pass
        assert names == ["small"]
    last = [orchestrator.heard.get_nowait() for _ in range(orchestrator.heard.qsize())][-1]
    assert last.method == "DELETE"


async def test_a_worker_that_is_told_to_stop_says_so_while_it_still_answers(tmp_path: Path) -> None:
    orchestrator = Orchestrator()
    async with listening(orchestrator):
        given: dict[str, Any] = {"vllm_python": sys.executable, "llm_engine_module": "tests.fakes.fake_engine"}
        service = create_app(
            ChatWorkerSettings.load(data_dir=tmp_path, orchestrator_url=orchestrator.url, **given), [instruct(tmp_path)]
        )
        async with serving(service) as port:
            assert '"draining":false' in (await soon(orchestrator.heard.get())).said
            service.stop()
            while '"draining":true' not in (await soon(orchestrator.heard.get())).said:
                pass
            assert (await ask(port, request(target=b"/health"))).status == 200


async def served_next(orchestrator: Orchestrator) -> list[str]:
    """The models of the next announcement."""
    heard = await soon(orchestrator.heard.get())
    assert heard.authorization == "Bearer worker-key"
    names = re.findall(r'"id":"(small|plain)"', heard.said)
    assert ('"ready":true' in heard.said) == bool(names)
    return names


async def test_the_worker_key_is_asked_for_where_there_is_one(tmp_path: Path) -> None:
    async with chat_worker(tmp_path, [instruct(tmp_path)], wan_worker_api_key="worker-key") as worker:
        body = b'{"model":"small","messages":[]}'
        for headers, status in (
            ([], 401),
            ([(b"authorization", b"Bearer wrong")], 401),
            ([(b"authorization", b"Bearer worker-key")], 200),
        ):
            answer = await ask(worker.port, request(b"POST", b"/v1/chat/completions", headers, body))
            assert answer.status == status
        for path, status in ((b"/health", 200), (b"/readyz", 200), (b"/v1/models", 401), (b"/worker/info", 401)):
            assert (await ask(worker.port, request(target=path))).status == status


def test_a_worker_that_others_can_reach_needs_a_key() -> None:
    with pytest.raises(SettingsError, match="WAN_WORKER_API_KEY must be set"):
        ChatWorkerSettings.load(host="0.0.0.0", wan_worker_api_key=None)
