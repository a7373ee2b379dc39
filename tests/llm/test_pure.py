"""/chat, /enhance and /generate in their pure form: what is sent is what the engine gets; limits; wrong forms."""

import asyncio
import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pytest
import rfc8785

from core.pure import PureAnswer
from tests.fakes.chat_worker import ChatWorker, chat_worker, instruct
from tests.fakes.client import ask, request
from tests.fakes.wait import answers, soon

TURN = {"role": "user", "content": "one two three"}


async def test_the_answer(worker: ChatWorker) -> None:
    for path in ("/chat", "/enhance", "/generate"):
        answer = await worker.http.post(path, json={"messages": [TURN]})
        assert answer.status_code == 200, answer.text
        told = PureAnswer.model_validate_json(answer.content)
        assert (told.response, told.tokens_generated, told.model) == ("one two three", 3, "qwen_instruct")
        assert told.finish_reason == "stop"
        assert told.generation_time > 0
        assert told.messages_sha256 == hashlib.sha256(rfc8785.dumps([TURN])).hexdigest()


async def test_each_path_has_its_default_and_the_caller_the_rest(worker: ChatWorker) -> None:
    engine = worker.engines()["small"]
    for path, tokens in (("/chat", 512), ("/enhance", 200), ("/generate", 512)):
        await worker.http.post(path, json={"messages": [TURN]})
        sent = (await engine.state())["received"][-1]["body"]
        assert {name: sent[name] for name in ("max_tokens", "temperature", "top_p")} == {
            "max_tokens": tokens,
            "temperature": 0.7,
            "top_p": 0.9,
        }
    asked = {"messages": [TURN], "max_tokens": 7, "temperature": 2, "top_p": 1, "sfw_mode": True}
    await worker.http.post("/chat", json=asked)
    sent = (await engine.state())["received"][-1]["body"]
    assert sent == {"messages": [TURN], "model": "small", "max_tokens": 7, "temperature": 2.0, "top_p": 1.0}


PIECES = (
    "",
    " ",
    "word",
    "über",
    "東京",
    "🙂",
    "{{x}}",
    "\n\n",
    "<b>",
    '"quoted"',
    "\\",
    "\u200b",
    "system:",
    "e\u0301",
)
ROLES = ("system", "user", "assistant", "tool", "developer")


def conversation(seed: int) -> list[dict[str, Any]]:
    """Any roles in any order, empty contents, tool calls and their answers, fields of the caller's own; some long."""
    chance = random.Random(seed)
    found: list[dict[str, Any]] = []
    for _ in range(chance.randrange(1, 9)):
        long = 3000 if chance.random() < 0.03 else 12
        text = "".join(chance.choice(PIECES) for _ in range(chance.randrange(long)))
        message: dict[str, Any] = {"role": chance.choice(ROLES), "content": text}
        if message["role"] == "tool":
            message["tool_call_id"] = f"call_{chance.randrange(9)}"
        if message["role"] == "assistant" and chance.random() < 0.3:
            call = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"x": 1.0}'}}
            message |= {"content": None, "tool_calls": [call]}
        if chance.random() < 0.2:
            message["x_own"] = {"number": chance.choice([1, 1.5, 1e20, True, None]), "deep": [[]]}
        found.append(message)
    return found


async def test_pure_means_pure(worker: ChatWorker) -> None:
    """200 conversations, sent as different JSON than the studio would write: the engine gets them as they are."""
    engine = worker.engines()["small"]
    for seed in range(200):
        messages = conversation(seed)
        body = json.dumps({"messages": messages, "max_tokens": 1}, ensure_ascii=seed % 2 == 0, indent=seed % 3).encode()
        path = (b"/chat", b"/enhance", b"/generate")[seed % 3]
        answer = await ask(worker.port, request(b"POST", path, (), body))
        assert answer.status == 200, (seed, answer.body)
        if seed % 20 == 19:
            received = (await engine.state())["received"][-20:]
            wanted = [conversation(number) for number in range(seed - 19, seed + 1)]
            assert [sent["body"]["messages"] for sent in received] == wanted
            assert all("system" not in json.dumps(s["body"].keys() - {"messages"}, default=list) for s in received)


async def test_the_base_model_gets_the_contents_and_nothing_between(worker: ChatWorker) -> None:
    engine = worker.engines()["plain"]
    messages = [
        {"role": "system", "content": "a "},
        {"role": "user", "content": "b\n"},
        {"role": "user", "content": ""},
    ]
    parts = [{"type": "text", "text": "c"}, {"type": "text", "text": "d"}]
    before = (await worker.get("/health"))["stats"]["base_model_uses"]
    answer = await worker.http.post(
        "/generate", json={"model": "qwen_base", "messages": [*messages, {"role": "assistant", "content": parts}]}
    )
    assert answer.status_code == 200
    received = (await engine.state())["received"][-1]
    assert (received["path"], received["body"]["prompt"]) == ("/v1/completions", "a b\ncd")
    assert "messages" not in received["body"]
    assert (await worker.get("/health"))["stats"]["base_model_uses"] == before + 1


WRONG: dict[str, tuple[Any, int, str | None]] = {
    "no messages": ({}, 422, "messages"),
    "messages that are none": ({"messages": "hello"}, 422, "messages"),
    "an empty list": ({"messages": []}, 422, "messages"),
    "a message that is none": ({"messages": ["x"]}, 422, "messages.0"),
    "no role": ({"messages": [{"content": "x"}]}, 422, "messages.0.role"),
    "a role that is none": ({"messages": [{"role": "king", "content": "x"}]}, 422, "messages.0.role"),
    "content of another type": ({"messages": [{"role": "user", "content": 3}]}, 422, "messages.0.content.str"),
    "the older form": ({"message": "hello"}, 422, "messages"),
    "no tokens": ({"messages": [TURN], "max_tokens": 0}, 422, "max_tokens"),
    "too many tokens": ({"messages": [TURN], "max_tokens": 2049}, 422, "max_tokens"),
    "tokens as text": ({"messages": [TURN], "max_tokens": "7"}, 422, "max_tokens"),
    "too hot": ({"messages": [TURN], "temperature": 2.1}, 422, "temperature"),
    "too wide": ({"messages": [TURN], "top_p": 1.1}, 422, "top_p"),
    "a flag of another type": ({"messages": [TURN], "sfw_mode": "maybe"}, 422, "sfw_mode"),
    "a field nobody knows": ({"messages": [TURN], "surprise": 1}, 422, "surprise"),
    "a model nobody knows": ({"messages": [TURN], "model": "gpt"}, 404, "model"),
    "a picture for the base model": (
        {"model": "qwen_base", "messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        422,
        "messages.0.content",
    ),
    "a list": ([], 422, None),
}


async def test_a_wrong_form_is_named(worker: ChatWorker) -> None:
    before = (await worker.get("/health"))["stats"]
    for name, (body, status, param) in WRONG.items():
        answer = await worker.http.post("/chat", json=body)
        told = answer.json()
        assert (answer.status_code, told["error"]["param"]) == (status, param), (name, answer.text)
        assert (told["success"], bool(told["error"]["message"])) == (False, True)
    broken = await ask(worker.port, request(b"POST", b"/chat", (), b'{"messages": '))
    assert (broken.status, broken.json()["error"]["code"]) == (400, "json_invalid")
    assert (await worker.get("/health"))["stats"] == before


async def test_counters_are_exact_under_concurrency(worker: ChatWorker) -> None:
    before = (await worker.get("/health"))["stats"]
    kinds: list[dict[str, Any]] = [
        {"sfw_mode": True},
        {},
        {"model": "qwen_base"},
        {"model": "plain", "sfw_mode": True},
        {"model": "nope"},
    ]
    bodies = [{"messages": [TURN], **kind} for kind in kinds * 6]
    found = await asyncio.gather(*(worker.http.post("/chat", json=body) for body in bodies))
    assert [answer.status_code for answer in found] == [200, 200, 200, 200, 404] * 6
    after = (await worker.get("/health"))["stats"]
    assert {name: after[name] - before[name] for name in after} == {
        "requests_served": 24,
        "model_loads": 0,
        "sfw_requests": 12,
        "base_model_uses": 12,
        "instruct_model_uses": 12,
    }


@pytest.mark.slow
async def test_eight_at_once_then_a_queue_then_a_429(tmp_path: Path) -> None:
    async with chat_worker(tmp_path, [instruct(tmp_path)], llm_queue=2) as worker:
        engine = worker.engines()["small"]
        await engine.behave(token_seconds=30.0)
        body = {"messages": [TURN]}
        held = [asyncio.ensure_future(worker.http.post("/chat", json=body)) for _ in range(10)]

        async def full() -> bool:
            answer = await worker.http.post("/generate", json=body)
            assert answer.status_code == 429
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.json()["error"]["code"] == "worker_full"
            return bool((await engine.state())["running"] == 8)

        async def running() -> bool:
            return bool((await engine.state())["running"] == 8)

        await answers(running)
        await answers(full)
        for task in held:
            task.cancel()
        await soon(asyncio.wait(held))

        async def idle() -> bool:
            return bool((await engine.state())["running"] == 0)

        await answers(idle)
        await engine.behave(token_seconds=0.0)
        assert (await soon(worker.http.post("/chat", json=body))).status_code == 200


async def test_what_the_engine_refuses_or_fails(worker: ChatWorker) -> None:
    engine = worker.engines()["small"]
    try:
        for status, wanted in ((400, 422), (429, 429), (500, 503)):
            await engine.behave(fail_with=status)
            answer = await worker.http.post("/chat", json={"messages": [TURN]})
            assert (answer.status_code, answer.json()["success"]) == (wanted, False)
            assert ("retry-after" in answer.headers) == (wanted != 422)
    finally:
        await engine.behave(fail_with=0)
