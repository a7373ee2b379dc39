"""A recipe: the caller names a prompt instead of sending one. Resolve → render → call the model → answer with proof."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping, Sequence
from typing import Any, cast

import httpx2
import msgspec
from openai.types.chat import ChatCompletionMessageParam

from core.errors import InvalidRequest
from core.relay import error_event
from orchestrator.engines import Engines
from orchestrator.requests import StoredPrompt
from prompts.registry import Registry
from prompts.render import Message, Release

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

# Fields of a body that a recipe decides, or that are not the engine's.
OWN_FIELDS = frozenset({"model", "messages", "prompt", "chat_template"})
PASSED_HEADERS = frozenset({"content-type", "content-encoding"})


class RecipeRunner:
    """Answers a request that names a recipe; pipelines use `text` for their single steps."""

    def __init__(self, registry: Registry, engines: Engines) -> None:
        self._registry = registry
        self._engines = engines

    async def answer(self, prompt: StoredPrompt, body: bytes, scope: MutableMapping[str, Any], send: Send) -> None:
        """Answer on raw ASGI with the engine's own bytes, JSON or SSE, and the release that made them."""
        release = await self._registry.resolve(prompt.id, prompt.version)
        sent: dict[str, Any] = msgspec.json.decode(body)
        messages = release.render(prompt.variables, _history(sent.get("messages")))
        request = {**release.sampling, **{k: v for k, v in sent.items() if k not in OWN_FIELDS}}
        async with self._engines.engine(release.model, "chat", scope["request_id"]) as (client, model):
            call = client.chat.completions.with_streaming_response.create(
                model=model, messages=_typed(messages), extra_body=request
            )
            async with call as response:
                headers: Headers = [(b"x-prompt-release", release.name.encode())]
                headers += [(k.encode(), v.encode()) for k, v in response.headers.items() if k in PASSED_HEADERS]
                await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
                await _pass_on(response.http_response, send)

    async def text(
        self, recipe: str, variables: Mapping[str, Any], request_id: str, history: Sequence[Message] = ()
    ) -> tuple[str, Release]:
        """One answer of a recipe's production release, as text."""
        release = await self._registry.resolve(recipe)
        messages = release.render(variables, history)
        async with self._engines.engine(release.model, "chat", request_id) as (client, model):
            completion = await client.chat.completions.create(
                model=model,
                messages=_typed(messages),
                extra_body=dict(release.sampling),
            )
        return (completion.choices[0].message.content or "").strip(), release


async def _pass_on(response: httpx2.Response, send: Send) -> None:
    """The engine's bytes as they come; an engine that breaks off leaves an error event in a stream."""
    try:
        async for chunk in response.aiter_raw():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    except httpx2.HTTPError as exc:
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            return  # the missing end closes the client's connection
        late = isinstance(exc, httpx2.TimeoutException)
        await send({"type": "http.response.body", "body": error_event(late), "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _typed(messages: list[Message]) -> Iterable[ChatCompletionMessageParam]:
    """The SDK's name for what the registry renders and the caller sends: passed on as it is."""
    return cast(Iterable[ChatCompletionMessageParam], messages)


def _history(messages: Any) -> list[Message]:
    """The caller's own messages, which follow or go into the recipe's."""
    if messages is None:
        return []
    if not isinstance(messages, list) or not all(isinstance(m, dict) and "role" in m for m in messages):
        raise InvalidRequest("`messages` must be a list of messages.", param="messages", code="invalid_messages")
    return messages
