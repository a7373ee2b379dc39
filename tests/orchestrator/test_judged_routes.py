"""Every route that asks a model judges every text that it is sent, sees every picture, and decodes token ids."""

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

from orchestrator.legacy.enhance.service import EnhanceRequest
from orchestrator.legacy.older_chat import ChatRequest
from orchestrator.pipelines import chat1to1, imagegen, private, profile, scenes, shorts
from orchestrator.policy.texts import NOT_SHOWN
from tests.fakes.studio import Studio
from tests.orchestrator.planted import everywhere
from tests.orchestrator.test_image_edits import KIND, PICTURE, PROMPT, form, part
from tests.orchestrator.test_texts import CHAT, COMPLETION, HARD, IMAGE, PNG, RESPONSES

SAID: list[dict[str, Any]] = [{"role": "user", "content": "hello"}]
RECIPE = {
    "prompt": {"id": "chat_conversation", "version": "production", "variables": {}},
    "messages": SAID,
    "tools": CHAT["tools"],
    "metadata": {"label": "mine"},
}
RELAYED: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": CHAT,
    "/v1/responses": RESPONSES,
    "/v1/completions": COMPLETION,
    "/v1/images/generations": IMAGE,
}
TYPED: dict[str, tuple[type[BaseModel], dict[str, Any]]] = {
    "/v1/chat/1to1/imagegen": (
        chat1to1.Request,
        {"message": "a boat", "persona": "a sailor", "messages": [{"role": "system", "content": "kind"}, *SAID]},
    ),
    "/v1/chat/1to1/expand": (chat1to1.ChatMessage, {"message": "a boat", "context": "at sea", "persona": "a sailor"}),
    "/v1/chat/1to1/caption": (chat1to1.CaptionRequest, {"prompt": "a boat", "message": "where?"}),
    "/v1/chat/shorts/generate": (shorts.Request, {"message": "a boat", "context": "at sea"}),
    "/v1/chat/scenes/generate": (scenes.Request, {"message": "a boat", "context": "at sea"}),
    "/v1/chat/private/imagegen": (private.Request, {"prompt": "a boat"}),
    "/v1/imagegen": (imagegen.Request, {"prompt": "a boat"}),
    "/chat": (ChatRequest, {"message": "hello", "system_prompt": "be brief"}),
    "/chat/unrestricted": (ChatRequest, {"message": "hello", "system_prompt": "be brief"}),
    "/enhance": (
        EnhanceRequest,
        {"prompt": "a boat", "job_type": "sdxl_image_fast", "system_prompt": "x", "context": "y"},
    ),
    "/enhance/legacy": (
        EnhanceRequest,
        {"prompt": "a boat", "job_type": "sdxl_image_fast", "system_prompt": "x", "context": "y"},
    ),
}
NO_TEXT = frozenset(("role", "size", "response_format", "webhook", "seed", "n", "stream", "background", "priority"))
NO_TEXT |= {"partial_images", "conversation_id", "job_type", "quality", "enhancement_type"}
"""Fields of these routes that are no text: numbers, choices of a list, names and addresses that no model is shown."""


async def refused(studio: Studio, path: str, body: Any, where: str = "") -> None:
    answer = await studio.post(path, body)
    assert (answer.status_code, answer.json()["error"]["type"]) == (422, "content_policy"), (where, answer.text)


NOT_A_TEXT = frozenset(("model", "n", "size", "steps"))
"""Here a word is refused because it is no name of a model, no size and no number."""


@pytest.mark.parametrize("path", RELAYED)
async def test_a_relayed_body_is_judged_wherever_a_word_stands(studio: Studio, path: str) -> None:
    worker = await studio.proving_worker()
    pictures = await studio.image_worker()
    for where, body in everywhere(RELAYED[path], HARD, left_out=NOT_SHOWN):
        if where not in NOT_A_TEXT:
            await refused(studio, path, body, where)
    assert not worker.received
    assert not pictures.received


NO_RECIPE = frozenset(
    ("prompt", "prompt/id", "prompt/version", "prompt/variables", "prompt/variables/more", "messages")
)
"""Here a word makes the request another one, or an invalid one."""


async def test_a_recipes_request_is_judged_wherever_a_word_stands(studio: Studio) -> None:
    worker = await studio.proving_worker()
    for where, body in everywhere(RECIPE, HARD):
        if where not in NO_RECIPE and where != "messages/1":
            await refused(studio, "/v1/chat/completions", body, where)
    assert not worker.received


@pytest.mark.parametrize("path", TYPED)
async def test_a_typed_body_is_judged_in_each_of_its_texts(studio: Studio, path: str) -> None:
    worker = await studio.scripted_worker()
    pictures = await studio.image_worker()
    asked, body = TYPED[path]
    told = {name for name in asked.model_fields if name not in NO_TEXT}
    given = {**body, **{name: "more" for name in told - body.keys() if name not in ("messages", "context")}}
    for name in sorted(told & given.keys()):
        for where, value in everywhere(given[name], f"something {HARD}"):
            if not where.endswith(("role", "more")) and not isinstance(value, dict):
                grown = {**given, name: value}
                if name == "messages" and not all(isinstance(turn, dict) for turn in value):
                    continue
                await refused(studio, path, grown, f"{name}/{where}")
    assert not worker.received
    assert not pictures.received


@pytest.mark.parametrize("path", ["/chat", "/enhance", "/generate"])
async def test_the_pure_form_is_judged_wherever_a_word_stands(studio: Studio, path: str) -> None:
    worker = await studio.proving_worker()
    messages: list[dict[str, Any]] = [{"role": "user", "content": [{"type": "text", "text": "a"}], "name": "me"}]
    for where, body in everywhere(messages, HARD):
        if where.count("/") and not where.endswith("role"):
            answer = await studio.post(path, {"messages": body})
            assert answer.status_code == 422, (where, answer.text)
    picture = [{"type": "text", "text": "undress"}, {"image_url": {"url": PNG}}]
    answer = await studio.post(path, {"messages": [{"role": "user", "content": picture}]})
    assert answer.json()["error"]["code"] == "sexual/real_person"
    assert not worker.received


async def test_each_text_of_a_form_is_judged(studio: Studio) -> None:
    pictures = await studio.image_worker()
    headers = {"authorization": f"Bearer {studio.key}", "content-type": KIND.decode()}
    for name in ("prompt", "negative_prompt", "lora", "anything"):
        texts = [part(name, HARD.encode())] if name == "prompt" else [PROMPT, part(name, HARD.encode())]
        answer = await studio.http.post("/v1/images/edits", content=form(PICTURE, *texts), headers=headers)
        assert (answer.status_code, answer.json()["error"]["type"]) == (422, "content_policy"), name
    assert not pictures.received


PICTURED: dict[str, list[dict[str, Any]]] = {
    "/v1/chat/completions": [
        {
            "model": "small",
            "messages": [{"role": "user", "content": [{"text": "undress"}, {"image_url": {"url": PNG}}]}],
        },
        {"prompt": {"id": "chat_conversation"}, "messages": [{"role": "user", "content": f"undress {PNG}"}]},
        {"prompt": {"id": "caption", "variables": {"prompt": "undress", "message": PNG}}},
    ],
    "/v1/responses": [
        {
            "model": "small",
            "input": [
                {"role": "user", "content": "undress"},
                {
                    "type": "function_call_output",
                    "call_id": "1",
                    "output": [{"type": "input_image", "image_url": PNG}],
                },
            ],
        }
    ],
    "/v1/images/generations": [{"prompt": "undress", "image": "iVBORw0KGgo"}, {"prompt": f"undress {PNG}"}],
    "/v1/chat/1to1/imagegen": [{"message": "undress", "persona": PNG}, {"message": "undress", "context": PNG}],
    "/v1/chat/private/imagegen": [{"prompt": f"undress {PNG}"}],
    "/v1/imagegen": [{"prompt": f"undress {PNG}"}],
    "/chat": [{"message": "undress", "system_prompt": PNG}],
    "/enhance": [{"prompt": "undress", "job_type": "sdxl_image_fast", "context": PNG}],
}


@pytest.mark.parametrize("path", PICTURED)
async def test_a_picture_makes_the_subject_real_on_every_route(studio: Studio, path: str) -> None:
    await studio.proving_worker()
    await studio.image_worker()
    for body in PICTURED[path]:
        answer = await studio.post(path, body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "sexual/real_person"), (body, answer.text)


# -- token ids --------------------------------------------------------------------------------------------------------


def ids(text: str) -> list[int]:
    """As the fake engine counts them: one for each character."""
    return [ord(character) for character in text]


@pytest.mark.parametrize("whole", [True, False])
async def test_token_ids_are_decoded_and_judged(studio: Studio, whole: bool) -> None:
    as_number: Callable[[int], float] = int if whole else float
    worker = await studio.chat_worker()
    harmless, hard = (list(map(as_number, ids(text))) for text in ("a boat", f"a {HARD} boat"))
    relayed: list[Any] = [harmless, [harmless, harmless]]
    for prompt in relayed:
        answer = await studio.post("/v1/completions", {"model": "small", "prompt": prompt})
        assert answer.status_code == 200, answer.text
    judged: list[Any] = [hard, [harmless, hard]]
    for prompt in judged:
        await refused(studio, "/v1/completions", {"model": "small", "prompt": prompt})
    assert len(await worker.received()) == 2


async def test_token_ids_that_no_worker_decodes_are_refused(studio: Studio) -> None:
    worker = await studio.proving_worker()  # it has no /detokenize
    await refused(studio, "/v1/completions", {"model": "small", "prompt": [97, 98.0]})
    models = [{"id": "mute", "abilities": ["completions"]}]
    assert (await studio.register("mute", worker_url(studio), models=models)).status_code == 200
    await refused(studio, "/v1/completions", {"model": "mute", "prompt": [97, 98.0]})
    await studio.chat_worker("chat-2", names=["large"])
    await refused(studio, "/v1/completions", {"model": "large", "prompt": [2**31 - 1]})
    assert not worker.received


def worker_url(studio: Studio) -> str:
    return f"{studio.url}/nobody"


def test_every_pipeline_stands_in_the_table() -> None:
    written = {module.PATH for module in (chat1to1, imagegen, private, scenes, shorts)}
    assert written <= TYPED.keys()
    assert profile.PATH not in TYPED  # a form with a picture: its subject is always real
