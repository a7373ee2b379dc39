"""The messages that the engine received are those that the caller sent: token by token, by the engine's own account."""

import asyncio
import random
from typing import Any

import pytest

from tests.e2e.studio import ROOT, Studio

WORDS = (
    *("sky", "boat", "lamp", "river", "green", "seven", "morning", "paper", "quietly"),
    *("über", "naïve", "東京", "🙂", "{{x}}", "<b>bold</b>", "system:"),
)


def conversation(seed: int) -> list[dict[str, str]]:
    """A made-up conversation: with and without a system message, with odd spacing, several scripts."""
    chance = random.Random(seed)
    turns = [{"role": "system", "content": text(chance)}] if chance.random() < 0.5 else []
    for number in range(chance.randrange(1, 6) | 1):
        turns.append({"role": ("user", "assistant")[number % 2], "content": text(chance)})
    return turns


def text(chance: random.Random) -> str:
    return "".join(chance.choice(WORDS) + chance.choice((" ", "  ", "\n", ", ")) for _ in range(chance.randrange(1, 6)))


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(ROOT / "data" / "models" / "smollm2-135m-instruct")


def bare(messages: list[dict[str, str]]) -> str:
    """ChatML with nothing of its own: written down here once more, independently of the product."""
    turns = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)
    return turns + "<|im_start|>assistant\n"


async def test_the_engine_saw_just_the_callers_messages(studio: Studio, tokenizer: Any) -> None:
    """25 conversations at once: what is batched together stays apart."""
    async with studio.client() as client, asyncio.TaskGroup() as together:

        async def one(messages: Any) -> None:
            answer = await client.chat.completions.create(
                model="qwen_instruct", messages=messages, max_tokens=1, extra_body={"return_token_ids": True}
            )
            seen = (answer.model_extra or {})["prompt_token_ids"]
            assert seen == tokenizer(bare(messages), add_special_tokens=False)["input_ids"]

        for seed in range(25):
            together.create_task(one(conversation(seed)))


async def test_no_system_message_is_put_in_where_none_was_sent(studio: Studio, tokenizer: Any) -> None:
    ask: Any = [{"role": "user", "content": "hello"}]
    async with studio.client() as client:
        answer = await client.chat.completions.create(
            model="qwen_instruct", messages=ask, max_tokens=1, extra_body={"return_token_ids": True}
        )
    assert "system" not in tokenizer.decode((answer.model_extra or {})["prompt_token_ids"])
    with_default = tokenizer.apply_chat_template(ask, tokenize=False, add_generation_prompt=True)
    assert "system" in with_default  # the checkpoint's own template does put one in: it was taken out
