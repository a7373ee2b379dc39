"""Proof on the real engine: every hash of an answer agrees with one computed here, from nothing of the product's."""

import hashlib
import json
from typing import Any

import pytest
import rfc8785

from tests.e2e.studio import ROOT, Studio
from tests.e2e.test_3_purity import bare, conversation

SYSTEM = (ROOT / "prompts" / "seed" / "chat_conversation" / "system.j2").read_text("utf-8").split("\n{%")[0]
ASKED = SYSTEM.replace('{{ name | default("a friendly assistant") }}', "a friendly assistant")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(ROOT / "data" / "models" / "smollm2-135m-instruct")


def digest(value: Any) -> str:
    return hashlib.sha256(rfc8785.dumps(value)).hexdigest()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_hundred_conversations_agree_in_all_three_hashes(studio: Studio, tokenizer: Any, stream: bool) -> None:
    async with studio.client() as client:
        for seed in range(stream, 100, 2):
            history: Any = conversation(seed)
            sent = [{"role": "system", "content": ASKED}, *history]
            answer = await client.chat.completions.with_raw_response.create(
                model="-",
                messages=history,
                max_tokens=3,
                stream=stream,
                extra_body={"prompt": {"id": "chat_conversation"}},
            )
            body = (await answer.http_response.aread()).decode()
            found, text = from_stream(body) if stream else from_json(body, answer.headers)
            run: Any = await client.get(f"/runs/{answer.headers['x-run-id']}", cast_to=object)
            ids = tokenizer(bare(sent), add_special_tokens=False)["input_ids"]
            assert answer.headers["x-proof"] == "verified"
            assert answer.headers["x-messages-sha256"] == digest(sent)
            assert found["prompt_tokens_sha256"] == digest(ids)
            said = hashlib.sha256(text.encode()).hexdigest()
            assert run["output_sha256"] == found.get("output_sha256", said) == said


def from_json(body: str, headers: Any) -> tuple[dict[str, Any], str]:
    """The hashes that came with an answer, and its text."""
    text = json.loads(body)["choices"][0]["message"]["content"]
    return {"prompt_tokens_sha256": headers["x-prompt-tokens-sha256"]}, text


def from_stream(body: str) -> tuple[dict[str, Any], str]:
    events = [event for event in body.split("\n\n") if event]
    chunks = [json.loads(event[6:]) for event in events if event.startswith("data: {")]
    text = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
    return json.loads(events[-1].removeprefix(": soundstage ")), text


async def test_a_replay_at_temperature_0_says_the_same(studio: Studio) -> None:
    async with studio.client() as client:
        answer = await client.chat.completions.with_raw_response.create(
            model="-",
            messages=[{"role": "user", "content": "Name three colours."}],
            max_tokens=16,
            temperature=0,
            seed=1,
            extra_body={"prompt": {"id": "chat_conversation"}},
        )
        body = {"variables": {}, "history": [{"role": "user", "content": "Name three colours."}], "call": True}
        path = f"/runs/{answer.headers['x-run-id']}/replay"
        found: Any = await client.post(path, body=body, cast_to=object)
    assert found["same"]
    assert found["called"]["same_output"]
    assert found["called"]["proof"] == "verified"
