"""The chat worker relays to its engines by model and says what it measured: real processes, fake engines."""

import asyncio
import json
from typing import Any

from openai import AsyncOpenAI

from tests.fakes.chat_worker import ChatWorker
from tests.fakes.client import ask, connected, request
from tests.fakes.wait import answers, soon


def sdk(worker: ChatWorker) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"http://127.0.0.1:{worker.port}/v1", api_key="any", max_retries=0)


async def test_an_answer_and_a_stream(worker: ChatWorker) -> None:
    async with sdk(worker) as client:
        answer = await client.chat.completions.create(model="small", messages=[{"role": "user", "content": "one two"}])
        assert answer.choices[0].message.content == "one two"
        stream = await client.chat.completions.create(
            model="qwen_instruct", messages=[{"role": "user", "content": "one two"}], stream=True
        )
        said = [chunk.choices[0].delta.content or "" async for chunk in stream]
        assert "".join(said) == "one two"
        text = await client.completions.create(model="qwen_base", prompt="three four")
        assert text.choices[0].text == "three four"


async def test_each_model_has_its_engine_and_the_engine_gets_the_callers_bytes(worker: ChatWorker) -> None:
    body = b' {"messages":[{"role":"user" ,"content":"x"}],"top_k" : 3,\n"sfw_mode":true,"model":"qwen_base"}'
    headers = [(b"x-request-id", b"my-id"), (b"authorization", b"Bearer the-callers")]
    assert (await ask(worker.port, request(b"POST", b"/v1/chat/completions", headers, body))).status == 200
    engines = worker.engines()
    received = (await engines["plain"].state())["received"][-1]
    assert (received["body"], received["headers"]["x-request-id"]) == (json.loads(body), "my-id")
    assert received["headers"]["content-length"] == str(len(body))
    assert "the-callers" not in str(received)


async def test_an_engine_is_started_pure_and_on_loopback(worker: ChatWorker) -> None:
    for name, engine in worker.engines().items():
        command = engine.command
        assert command[command.index("--host") + 1] == "127.0.0.1"
        assert command[command.index("--generation-config") + 1] == "vllm"
        names = command[command.index("--served-model-name") + 1 :][:2]
        assert names == {"small": ["small", "qwen_instruct"], "plain": ["plain", "qwen_base"]}[name]
        assert "VLLM_API_KEY" in engine.process.environ()
        assert engine.process.environ()["VLLM_API_KEY"] not in " ".join(command)


BAD: dict[str, tuple[bytes, int, str, str | None]] = {
    "unknown model": (b'{"model":"nope"}', 404, "model_not_found", "model"),
    "no model": (b"{}", 400, "missing_model", "model"),
    "a model of another type": (b'{"model":[1]}', 400, "invalid_body", None),
    "not JSON": (b"{", 400, "json_invalid", None),
    "nothing": (b"", 400, "json_invalid", None),
    "a list": (b"[]", 400, "invalid_body", None),
    "not UTF-8": (b'{"model":"\xff"}', 400, "json_invalid", None),
    "too deep": (b'{"model":"small","x":' + b"[" * 50_000, 400, "json_too_deep", None),
}


async def test_bad_bodies_are_refused_by_name(worker: ChatWorker) -> None:
    before = (await worker.get("/health"))["stats"]["requests_served"]
    for name, (body, status, code, param) in BAD.items():
        for path in (b"/v1/chat/completions", b"/v1/completions", b"/v1/responses", b"/tokenize"):
            answer = await ask(worker.port, request(b"POST", path, (), body))
            assert (answer.status, answer.error["code"], answer.error["param"]) == (status, code, param), (name, path)
    assert (await worker.get("/health"))["stats"]["requests_served"] == before


async def test_ids_that_no_tokenizer_holds_reach_no_engine(worker: ChatWorker) -> None:
    before = len((await worker.engines()["small"].state())["received"])
    for ids in ("[1, -1]", f"[{2**70}]", "[1.5]", '["a"]', "7", "null", "[[1]]", "[1e400]"):
        body = b'{"model":"small","tokens":%s}' % ids.encode()
        answer = await ask(worker.port, request(b"POST", b"/detokenize", body=body))
        assert (answer.status, answer.error["code"], answer.error["param"]) == (400, "invalid_value", "tokens")
    broken = b'{"model":"small","messages":[],"\xc0\x80n":1}'
    answer = await ask(worker.port, request(b"POST", b"/v1/chat/completions", body=broken))
    assert (answer.status, answer.error["code"]) == (400, "json_invalid")
    assert len((await worker.engines()["small"].state())["received"]) == before
    right = await ask(worker.port, request(b"POST", b"/detokenize", body=b'{"model":"small","tokens":[104,105]}'))
    assert right.json() == {"prompt": "hi"}


async def test_the_models_it_serves(worker: ChatWorker) -> None:
    listed = (await worker.get("/v1/models"))["data"]
    assert {model["id"]: model["root"] for model in listed} == {
        "small": "small",
        "qwen_instruct": "small",
        "plain": "plain",
        "qwen_base": "plain",
    }
    assert (await worker.get("/v1/models/qwen_base"))["max_model_len"] == 100
    missing = await ask(worker.port, request(target=b"/v1/models/nope"))
    assert (missing.status, missing.error["code"]) == (404, "model_not_found")


async def test_its_figures_are_exact_under_concurrency(worker: ChatWorker) -> None:
    before = (await worker.get("/health"))["stats"]
    sent: list[dict[str, Any]] = [
        {"model": "small"},
        {"model": "qwen_instruct", "sfw_mode": True},
        {"model": "qwen_base"},
        {"model": "plain", "sfw_mode": False, "stream": True},
        {"model": "nope"},
    ]
    statuses = [answer.status_code for answer in await asyncio.gather(*(worker.chat(**body) for body in sent * 12))]
    assert statuses == [200, 200, 200, 200, 404] * 12
    after = (await worker.get("/health"))["stats"]
    assert {name: after[name] - before[name] for name in after} == {
        "requests_served": 48,
        "model_loads": 0,
        "sfw_requests": 12,
        "base_model_uses": 24,
        "instruct_model_uses": 24,
    }


async def test_what_it_says_of_itself(worker: ChatWorker) -> None:
    health = await worker.get("/health")
    assert {name: health[name] for name in ("status", "model_loaded", "worker_type", "no_hardcoded_prompts")} == {
        "status": "healthy",
        "model_loaded": True,
        "worker_type": "pure_inference_engine",
        "no_hardcoded_prompts": True,
    }
    assert health["engines"] == {name: {"state": "ready", "restarts": 0} for name in ("small", "plain")}
    assert health["stats"]["model_loads"] == 2
    info = await worker.get("/worker/info")
    assert info["models_loaded"] == {"instruct_loaded": True, "base_loaded": True, "active_model_type": "instruct"}
    assert info["capabilities"]["hardcoded_prompts"] is info["capabilities"]["prompt_modification"] is False
    assert set(info["model_paths"]) == {"instruct", "base"}
    for path, what in info["endpoints"].items():
        method = what.split(" - ")[0].encode()
        answer = await ask(worker.port, request(method, path.encode(), (), b"{}" if method == b"POST" else None))
        assert answer.status in (200, 400, 422), path


async def test_a_caller_who_leaves_frees_the_engine(worker: ChatWorker) -> None:
    engine = worker.engines()["small"]
    before = (await engine.state())["aborted"]
    await engine.behave(token_seconds=30.0)

    async def running(number: int) -> bool:
        return bool((await engine.state())["running"] == number)

    try:
        for stream in (False, True):
            body: dict[str, Any] = {"model": "small", "messages": [{"role": "user", "content": "a b"}]}
            async with connected(worker.port) as client:
                sent = json.dumps({**body, "stream": stream}).encode()
                await client.send(request(b"POST", b"/v1/chat/completions", (), sent))
                await answers(lambda: running(1), "a running request")
                client.leave()
            await answers(lambda: running(0), "an idle engine")
        assert (await engine.state())["aborted"] - before == 2
    finally:
        await engine.behave(token_seconds=0.0)
    assert (await soon(worker.chat())).status_code == 200
