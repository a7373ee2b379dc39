"""Proof on the real engine: every hash of an answer agrees with one computed here, from nothing of the product's."""

import asyncio
import hashlib
import json
import os
from typing import Any

import pytest
import rfc8785

from tests.e2e.studio import ROOT, Studio
from tests.e2e.test_3_purity import bare, conversation

SYSTEM = (ROOT / "prompts" / "seed" / "chat_conversation" / "system.j2").read_text("utf-8").split("\n{%")[0]
NAME = '{{ name | default("a friendly assistant") }}'
AT_ONCE = 16
CAPITAL: Any = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello!"},
    {"role": "user", "content": "What is the capital of France?"},
]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(ROOT / "data" / "models" / "smollm2-135m-instruct")


def digest(value: Any) -> str:
    return hashlib.sha256(rfc8785.dumps(value)).hexdigest()


def sent(history: Any, name: str = "a friendly assistant") -> Any:
    """What chat_conversation makes of a conversation, written down here once more."""
    return [{"role": "system", "content": SYSTEM.replace(NAME, name)}, *history]


async def test_a_hundred_conversations_agree_in_all_three_hashes(studio: Studio, tokenizer: Any) -> None:
    """Sixteen at once, every second one as a stream."""
    places = asyncio.Semaphore(AT_ONCE)
    async with studio.client() as client, asyncio.TaskGroup() as together:

        async def one(seed: int) -> None:
            async with places:
                await agrees(client, conversation(seed), tokenizer, stream=seed % 2 == 1)

        for seed in range(100):
            together.create_task(one(seed))


async def agrees(client: Any, history: Any, tokenizer: Any, *, stream: bool) -> None:
    answer = await client.chat.completions.with_raw_response.create(
        model="-", messages=history, max_tokens=2, stream=stream, extra_body={"prompt": {"id": "chat_conversation"}}
    )
    body = (await answer.http_response.aread()).decode()
    found, text = from_stream(body) if stream else from_json(body, answer.headers)
    run: Any = await client.get(f"/runs/{answer.headers['x-run-id']}", cast_to=object)
    assert answer.headers["x-proof"] == "verified"
    assert answer.headers["x-messages-sha256"] == run["messages_sha256"] == digest(sent(history))
    ids = tokenizer(bare(sent(history)), add_special_tokens=False)["input_ids"]
    assert found["prompt_tokens_sha256"] == run["prompt_tokens_sha256"] == digest(ids)
    said = hashlib.sha256(text.encode()).hexdigest()
    assert run["output_sha256"] == found.get("output_sha256", said) == said
    assert "token_ids" not in body


def from_json(body: str, headers: Any) -> tuple[dict[str, Any], str]:
    """The hashes that came with an answer, and its text."""
    text = json.loads(body)["choices"][0]["message"]["content"]
    return {"prompt_tokens_sha256": headers["x-prompt-tokens-sha256"]}, text


def from_stream(body: str) -> tuple[dict[str, Any], str]:
    events = [event for event in body.split("\n\n") if event]
    chunks = [json.loads(event[6:]) for event in events if event.startswith("data: {")]
    text = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
    return json.loads(events[-1].removeprefix(": soundstage ")), text


@pytest.mark.parametrize("stream", [False, True])
async def test_a_recipe_in_responses_agrees_too(studio: Studio, tokenizer: Any, stream: bool) -> None:
    prompt: Any = {"id": "chat_conversation", "variables": {"name": "Ada"}}
    async with studio.client() as client:
        answer: Any = await client.responses.with_raw_response.create(
            prompt=prompt, input=CAPITAL, max_output_tokens=8, temperature=0, stream=stream
        )
        body = (await answer.http_response.aread()).decode()
        run: Any = await client.get(f"/runs/{answer.headers['x-run-id']}", cast_to=object)
    if stream:
        found = json.loads(body.split("\n\n")[-2].removeprefix(": soundstage "))
        events = [json.loads(line[6:]) for line in body.split("\n") if line.startswith("data: {")]
        text = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
        assert events[-1]["type"] == "response.completed"
    else:
        found = {"prompt_tokens_sha256": answer.headers["x-prompt-tokens-sha256"]}
        text = answer.parse().output_text
    assert "Paris" in text
    assert (answer.headers["x-proof"], answer.headers["x-prompt-release"][:18]) == ("verified", "chat_conversation@")
    assert answer.headers["x-messages-sha256"] == digest(sent(CAPITAL, "Ada"))
    ids = tokenizer(bare(sent(CAPITAL, "Ada")), add_special_tokens=False)["input_ids"]
    assert found["prompt_tokens_sha256"] == digest(ids)
    assert run["output_sha256"] == hashlib.sha256(text.encode()).hexdigest()
    assert "input_messages" not in body


async def test_a_preview_counts_as_the_engine_does(studio: Studio, tokenizer: Any) -> None:
    async with studio.client() as client:
        body = {"history": CAPITAL, "variables": {"name": "Ada"}}
        shown: Any = await client.post("/prompts/chat_conversation/preview", body=body, cast_to=object)
    ids = tokenizer(bare(sent(CAPITAL, "Ada")), add_special_tokens=False)["input_ids"]
    assert shown["messages"] == sent(CAPITAL, "Ada")
    assert (shown["tokens"], shown["prompt_tokens_sha256"]) == (len(ids), digest(ids))


async def test_a_replay_three_releases_later_says_the_same_at_temperature_0(studio: Studio) -> None:
    name = f"colours-{os.urandom(4).hex()}"
    asked: Any = [{"role": "user", "content": "Name three colours."}]
    async with studio.client() as client:
        for system in ("Answer briefly.", "Answer at length.", "Answer in verse.", "Answer like a pirate."):
            parts = [{"role": "system", "body": system}, {"role": "history"}]
            body = {"name": name, "model": "qwen_instruct", "messages": parts}
            made: Any = await client.post("/prompts", body=body, cast_to=object)
            if made["version"] == 1:
                answer = await client.chat.completions.with_raw_response.create(
                    model="-",
                    messages=asked,
                    max_tokens=16,
                    temperature=0,
                    seed=1,
                    extra_body={"prompt": {"id": name, "version": "1"}},
                )
        path = f"/runs/{answer.headers['x-run-id']}/replay?release=4"
        again: Any = {"variables": {}, "history": asked, "call": True}
        found: Any = await client.post(path, body=again, cast_to=object)
    assert (found["release"], found["same"]) == (f"{name}@1", True)
    assert found["messages_sha256"] == answer.headers["x-messages-sha256"]
    assert found["called"]["same_output"]
    assert found["called"]["output"] == answer.parse().choices[0].message.content
    assert found["called"]["proof"] == "verified"
    assert "-Answer briefly." in found["other"]["diff"]
    assert "+Answer like a pirate." in found["other"]["diff"]
