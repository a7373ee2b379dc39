"""The same request again with its Idempotency-Key: the engine is asked once."""

import asyncio
import json
from typing import Any

from core.http.idempotency import REPEATED
from tests.fakes.chat_worker import ChatWorker
from tests.fakes.client import Answer, ask, connected, request
from tests.fakes.wait import answers, soon

CHAT = b"/v1/chat/completions"


def said(content: str) -> dict[str, Any]:
    return {"model": "small", "messages": [{"role": "user", "content": content}]}


def asked(key: str, body: object, path: bytes = CHAT) -> bytes:
    return request(b"POST", path, [(b"idempotency-key", key.encode())], json.dumps(body).encode())


async def received(worker: ChatWorker, content: str) -> int:
    """How often the engine was asked this."""
    there = (await worker.engines()["small"].state())["received"]
    return sum(one["body"].get("messages") == said(content)["messages"] for one in there)


def given(answer: Answer) -> tuple[int, bytes, list[tuple[bytes, bytes]]]:
    """What an answer says, whichever request it belongs to."""
    own = (b"x-request-id", b"date", b"server", b"connection", b"transfer-encoding", b"content-length")
    return answer.status, answer.body, [pair for pair in answer.headers if pair[0] not in (*own, REPEATED.encode())]


async def test_a_finished_answer_is_given_again_with_its_proof(worker: ChatWorker) -> None:
    body = said("a finished answer")
    first, second = [await ask(worker.port, asked("job:expand", body)) for _ in range(2)]
    assert given(second) == given(first)
    assert [answer.header(REPEATED.encode()) for answer in (first, second)] == [None, b"true"]
    assert first.header(b"x-messages-sha256") is not None
    assert first.header(b"x-request-id") != second.header(b"x-request-id")
    assert await received(worker, "a finished answer") == 1
    other = await ask(worker.port, asked("job:expand", {**body, "seed": 3}))
    assert (other.status, other.error["code"]) == (409, "idempotency_key_reused")
    elsewhere = asked("job:expand", {"model": "small", "prompt": "x"}, b"/v1/completions")
    assert (await ask(worker.port, elsewhere)).status == 200
    assert (await ask(worker.port, asked("a b", body))).error["code"] == "invalid_idempotency_key"


async def test_who_asks_meanwhile_waits_and_who_is_left_alone_asks_himself(worker: ChatWorker) -> None:
    engine = worker.engines()["small"]

    async def running() -> bool:
        return bool((await engine.state())["running"])

    body = asked("job:caption", said("asked by three"))
    await engine.behave(first_token_seconds=30.0)
    async with connected(worker.port) as one:
        await one.send(body)
        await answers(running, "the first request")
        others = [asyncio.ensure_future(ask(worker.port, body)) for _ in range(2)]
        await engine.behave(first_token_seconds=0.0)
        assert await received(worker, "asked by three") == 1
        one.leave()  # its request ends with it; of the others one asks, and both have the answer
        assert given(await soon(others[0])) == given(await soon(others[1]))
    assert await received(worker, "asked by three") == 2


async def test_neither_failures_nor_streams_are_kept(worker: ChatWorker) -> None:
    engine = worker.engines()["small"]
    body = said("never kept")
    await engine.behave(fail_with=400)
    assert (await ask(worker.port, asked("job:failed", body))).status == 400
    await engine.behave(fail_with=0)
    assert (await ask(worker.port, asked("job:failed", body))).status == 200
    for _ in range(2):
        assert (await ask(worker.port, asked("job:stream", {**body, "stream": True}))).status == 200
    assert await received(worker, "never kept") == 4
