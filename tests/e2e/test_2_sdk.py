"""The official openai SDK against the real engine: answers, and each error as the SDK's own class with our envelope."""

import base64
import io
import json
from typing import Any

import openai
import pytest
from PIL import Image

from tests.e2e.studio import Studio

QUESTION: Any = [{"role": "user", "content": "What is the capital of France?"}]
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer", "maximum": 120}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


async def test_chat(studio: Studio) -> None:
    async with studio.client() as client:
        answer = await client.chat.completions.create(
            model="qwen_instruct", messages=QUESTION, max_tokens=20, temperature=0
        )
    assert answer.choices[0].message.content == "The capital of France is Paris."
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 8


async def test_chat_stream_with_usage(studio: Studio) -> None:
    async with studio.client() as client:
        stream = await client.chat.completions.create(
            model="qwen_instruct",
            messages=QUESTION,
            max_tokens=20,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "The capital of France is Paris."
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 8
    assert len(chunks) >= 8


async def test_completions_of_the_base_model(studio: Studio) -> None:
    async with studio.client() as client:
        answer = await client.completions.create(
            model="qwen_base", prompt="The capital of France is", max_tokens=3, temperature=0
        )
    assert "Paris" in answer.choices[0].text


async def test_response_format_json_schema(studio: Studio) -> None:
    schema: Any = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}}
    ask: Any = [{"role": "user", "content": "Invent a person. Answer as JSON with name and age."}]
    async with studio.client() as client:
        answer = await client.chat.completions.create(
            model="qwen_instruct", messages=ask, response_format=schema, max_tokens=60, temperature=0
        )
    found = json.loads(answer.choices[0].message.content or "")
    assert set(found) == {"name", "age"}
    assert isinstance(found["age"], int)


async def test_a_named_tool_is_called(studio: Studio) -> None:
    tool: Any = {"type": "function", "function": {"name": "save_person", "strict": True, "parameters": PERSON}}
    ask: Any = [{"role": "user", "content": "Save Ada, who is 36."}]
    async with studio.client() as client:
        answer = await client.chat.completions.create(
            model="qwen_instruct",
            messages=ask,
            tools=[tool],
            tool_choice={"type": "function", "function": {"name": "save_person"}},
            max_tokens=60,
            temperature=0,
        )
    calls: Any = answer.choices[0].message.tool_calls
    call = calls[0]
    assert call.function.name == "save_person"
    assert set(json.loads(call.function.arguments)) == {"name", "age"}


async def test_models_are_listed_with_their_aliases(studio: Studio) -> None:
    async with studio.client() as client:
        names = {model.id async for model in client.models.list()}
        one = await client.models.retrieve("qwen_instruct")
    assert {"qwen_instruct", "qwen_base", "smollm2-135m-instruct", "zimage-tiny-icons"} <= names
    assert one.id == "qwen_instruct"


async def test_a_recipe_by_name(studio: Studio) -> None:
    async with studio.client() as client:
        raw = await client.chat.completions.with_raw_response.create(
            model="qwen_instruct",
            messages=QUESTION,
            temperature=0,
            extra_body={"prompt": {"id": "chat_conversation", "version": "production", "variables": {"name": "Ada"}}},
        )
    assert raw.headers["x-prompt-release"].startswith("chat_conversation@")
    assert raw.parse().choices[0].message.content


async def test_an_image(studio: Studio) -> None:
    async with studio.client() as client:
        answer = await client.images.generate(
            model="zimage-tiny-icons",
            prompt="a red apple",
            size="256x256",
            extra_body={"seed": 1},
        )
    assert answer.data
    with Image.open(io.BytesIO(base64.b64decode(answer.data[0].b64_json or ""))) as image:
        assert image.size == (256, 256)


async def test_a_selfie_worker_is_there(studio: Studio) -> None:
    async with studio.session() as session, session.get(f"{studio.base_url}/workers") as response:
        assert response.status == 200, await response.text()
        assert "selfie" in {worker["kind"] for worker in (await response.json())["data"]}


WRONG = [
    pytest.param({"model": "nope"}, openai.NotFoundError, "model_not_found", id="unknown-model"),
    pytest.param({"messages": "hello"}, openai.BadRequestError, None, id="messages-no-list"),
    pytest.param({"temperature": 9}, openai.BadRequestError, None, id="temperature-too-high"),
    pytest.param({"max_tokens": -1}, openai.BadRequestError, None, id="negative-max-tokens"),
    pytest.param(
        {"extra_body": {"chat_template": "{{ messages }}"}}, openai.BadRequestError, "field_refused", id="chat-template"
    ),
    pytest.param(
        {"extra_body": {"prompt": {"id": "nowhere"}}}, openai.NotFoundError, "prompt_not_found", id="unknown-recipe"
    ),
    pytest.param(
        {"extra_body": {"prompt": {"id": "caption", "variables": {}}}},
        openai.BadRequestError,
        "invalid_variables",
        id="missing-variable",
    ),
]


@pytest.mark.parametrize(("change", "kind", "code"), WRONG)
async def test_a_wrong_request_is_the_sdks_own_exception(
    studio: Studio, change: dict[str, Any], kind: type[openai.APIStatusError], code: str | None
) -> None:
    request = {"model": "qwen_instruct", "messages": QUESTION, **change}
    async with studio.client() as client:
        with pytest.raises(kind) as caught:
            await client.chat.completions.create(**request)
    assert isinstance(caught.value.body, dict)
    assert {"message", "type", "param", "code"} <= set(caught.value.body)
    assert code is None or caught.value.body["code"] == code


async def test_an_invalid_key(studio: Studio) -> None:
    async with studio.client(key="sk-soundstage-wrong") as client:
        with pytest.raises(openai.AuthenticationError) as caught:
            await client.chat.completions.create(model="qwen_instruct", messages=QUESTION)
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["code"] == "invalid_api_key"


async def test_a_body_that_is_not_json(studio: Studio) -> None:
    async with studio.session() as session:
        async with session.post(f"{studio.base_url}/chat/completions", data=b'{"model": ') as response:
            assert response.status == 400
            assert (await response.json())["error"]["code"] == "json_invalid"
