"""Other people's clients, unmodified, against the real engine: LangChain, pydantic-ai, LiteLLM, OpenAI's own for Node.

They are imported by the tests themselves: it takes seconds, which every run of any test would pay. LiteLLM's pins do
not fit beside these, and Node is no Python: `make clients` installs both in folders of their own.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from openai import AsyncOpenAI, DefaultAsyncHttpxClient
from pydantic import BaseModel, Field, SecretStr

from tests.e2e import litellm_client
from tests.e2e.node import asked, node_sdk
from tests.e2e.studio import ROOT, Studio

if TYPE_CHECKING:
    from langchain_openai import ChatOpenAI

QUESTION, ANSWER = "What is the capital of France?", "The capital of France is Paris."


class Age(BaseModel):
    """How old somebody is."""

    age: int = Field(ge=0, le=120)


@asynccontextmanager
async def langchain(studio: Studio) -> AsyncIterator["ChatOpenAI"]:
    """With connections that are closed in the end: its own stay open as long as the process."""
    from langchain_openai import ChatOpenAI

    async with DefaultAsyncHttpxClient() as connections:
        yield ChatOpenAI(
            model="qwen_instruct",
            base_url=studio.base_url,
            api_key=SecretStr(studio.key),
            temperature=0,
            max_completion_tokens=60,
            max_retries=0,
            http_async_client=connections,
        )


async def test_langchain(studio: Studio) -> None:
    async with langchain(studio) as model:
        answer = await model.ainvoke(QUESTION)
        assert answer.content == ANSWER
        assert answer.usage_metadata
        assert answer.usage_metadata["output_tokens"] == 8
        pieces = [str(piece.content) async for piece in model.astream(QUESTION)]
        assert "".join(pieces) == ANSWER
        assert len(pieces) >= 8


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
async def test_langchains_structured_output(studio: Studio, method: str) -> None:
    async with langchain(studio) as plain:
        model = plain.with_structured_output(Age, method=method, strict=True)  # type: ignore[arg-type]
        assert isinstance(await model.ainvoke("How old is Ada?"), Age)


@pytest.mark.parametrize("way", ["NativeOutput", "ToolOutput"])
async def test_pydantic_ais_structured_output(studio: Studio, way: str) -> None:
    import pydantic_ai
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    output: Any = getattr(pydantic_ai, way)(Age, strict=True)
    async with AsyncOpenAI(base_url=studio.base_url, api_key=studio.key, max_retries=0) as client:
        model = OpenAIChatModel("qwen_instruct", provider=OpenAIProvider(openai_client=client))
        agent = pydantic_ai.Agent(model, output_type=output, model_settings={"temperature": 0, "max_tokens": 40})
        assert isinstance((await agent.run("How old is Ada?")).output, Age)


async def test_litellm(studio: Studio) -> None:
    if not litellm_client.is_there():
        pytest.skip("needs LiteLLM in an environment of its own: make clients")
    assert await litellm_client.asked(studio.base_url, studio.key) == litellm_client.WANTED


async def test_the_node_sdk(studio: Studio) -> None:
    node, sdk = node_sdk()
    if node is None or sdk is None:
        pytest.skip("needs node and its openai package: make clients")
    said = await asked(node, sdk, ROOT / "tests" / "e2e" / "chat.mjs", studio.base_url, studio.key)
    assert said == {
        "answer": {"text": ANSWER, "finish": "stop"},
        "stream": {"text": ANSWER, "tokens": 8},
        "left": {"aborted": True},
        "responses": {"text": ANSWER},
        "tool": {"name": "save_age", "keys": ["age"]},
        "models": {"there": True},
        "unknown": {"raised": True, "status": 404, "code": "model_not_found"},
        "refused": {"raised": True, "status": 400, "code": "field_refused"},
        "key": {"raised": True, "status": 401, "code": "invalid_api_key"},
    }
