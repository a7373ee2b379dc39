"""What a caller sees of the queue in front of a pool: it waits and is served, leaves without a trace, or is told."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.studio import ChatWorker, Studio, studio_over
from tests.fakes.wait import answers, soon

pytestmark = pytest.mark.slow

CHAT = {"model": "small", "messages": [{"role": "user", "content": "one two"}], "max_tokens": 1}


async def running(worker: ChatWorker, wanted: int) -> None:
    async def reached() -> bool:
        return bool((await worker.state())["running"] == wanted)

    await answers(reached, f"{wanted} running")


async def queued(studio: Studio, wanted: int) -> None:
    async def reached() -> bool:
        return f'soundstage_queue_depth{{kind="chat"}} {wanted}.0' in (await studio.http.get("/metrics")).text

    await answers(reached, f"{wanted} waiting")


async def test_who_waits_is_served_and_who_leaves_is_forgotten(studio: Studio) -> None:
    worker = await studio.chat_worker("a", capacity=1)
    await worker.behave(first_token_seconds=30.0)
    held = asyncio.ensure_future(studio.post("/v1/chat/completions", CHAT))
    await running(worker, 1)
    left, waits = (asyncio.ensure_future(studio.post("/v1/chat/completions", CHAT)) for _ in range(2))
    await queued(studio, 2)
    left.cancel()
    await queued(studio, 1)
    await worker.behave(first_token_seconds=0.0)
    held.cancel()
    assert (await soon(waits)).status_code == 200
    assert len(await worker.received()) == 2


async def test_who_is_urgent_goes_before_others_of_its_tenant(
    studio: Studio, capfd: pytest.CaptureFixture[str]
) -> None:
    """And the line of each request says how it ended, who answered, and what it waited for."""
    worker = await studio.chat_worker("a", capacity=1)
    await worker.behave(first_token_seconds=30.0)
    held = asyncio.ensure_future(studio.post("/v1/chat/completions", CHAT))
    await running(worker, 1)
    waiting = []
    for at, priority in enumerate("0591"):
        headers = {"x-priority": priority, "x-request-id": f"priority-{priority}"}
        waiting.append(asyncio.ensure_future(studio.post("/v1/chat/completions", CHAT, headers=headers)))
        await queued(studio, at + 1)
    await worker.behave(first_token_seconds=0.0)
    held.cancel()
    assert [answer.status_code for answer in await soon(asyncio.gather(*waiting))] == [200] * 4
    served = [sent["headers"]["x-request-id"] for sent in (await worker.received())[1:]]
    assert served == ["priority-9", "priority-5", "priority-1", "priority-0"]

    said: dict[str, Any] = {}

    async def logged() -> bool:
        lines = (json.loads(line) for line in capfd.readouterr().err.splitlines() if "priority-" in line)
        said.update({line["request_id"]: line for line in lines if "outcome" in line})
        return len(said) == 4

    await answers(logged, "the lines in the log")
    told = said["priority-0"]
    assert (told["outcome"], told["worker"], told["waited_for"]) == ("finished", "a", "chat small")
    assert said["priority-9"]["waited_ms"] > 0


@pytest.mark.parametrize("priority", ["10", "-1", "high", ""])
async def test_a_priority_is_one_digit(studio: Studio, priority: str) -> None:
    answer = await studio.post("/v1/chat/completions", CHAT, headers={"x-priority": priority})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_priority")


async def test_who_could_not_be_served_in_time_is_told_at_once(studio: Studio) -> None:
    worker = await studio.chat_worker("a", capacity=1)
    await worker.behave(first_token_seconds=30.0)
    held = asyncio.ensure_future(studio.post("/v1/chat/completions", CHAT))
    await running(worker, 1)
    answer = await studio.post("/v1/chat/completions", CHAT, headers={"x-request-timeout": "0.5"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "workers_full")
    assert int(answer.headers["retry-after"]) >= 1
    held.cancel()


async def test_what_is_left_of_a_deadline_is_passed_on_and_ends_the_request(studio: Studio) -> None:
    worker = await studio.chat_worker("a")
    await studio.post("/v1/chat/completions", CHAT, headers={"x-request-timeout": "20"})
    [received] = await worker.received()
    assert 0 < float(received["headers"]["x-request-timeout"]) < 20
    await worker.behave(first_token_seconds=30.0)
    answer = await studio.post("/v1/chat/completions", CHAT, headers={"x-request-timeout": "0.2"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "upstream_timeout")
    await running(worker, 0)


@pytest.mark.parametrize("seconds", ["0", "-1", "soon", "nan", "inf", "1e9"])
async def test_a_deadline_is_a_number_of_seconds(studio: Studio, seconds: str) -> None:
    answer = await studio.post("/v1/chat/completions", CHAT, headers={"x-request-timeout": seconds})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "invalid_timeout", "X-Request-Timeout")


async def test_one_conversation_stays_at_one_worker(migrated_dsn: str, tmp_path: Path) -> None:
    async with studio_over(migrated_dsn, tmp_path, routing_chat="affinity") as studio:
        workers = [await studio.chat_worker(name) for name in "abcd"]
        hints: list[dict[str, Any]] = [
            {"headers": {"x-session-id": "s-1"}},
            {"prompt_cache_key": "k-1"},
            {"user": "u-1"},
            {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "A first turn"}]},
        ]
        for hint in hints:
            before = [len(await worker.received()) for worker in workers]
            for turn in range(3):
                body: dict[str, Any] = CHAT | {name: value for name, value in hint.items() if name != "headers"}
                body["messages"] = [*body["messages"], {"role": "user", "content": f"turn {turn}"}]
                answer = await studio.post("/v1/chat/completions", body, headers=hint.get("headers", {}))
                assert answer.status_code == 200
            more = [len(await worker.received()) - count for worker, count in zip(workers, before, strict=True)]
            assert sorted(more) == [0, 0, 0, 3], hint
