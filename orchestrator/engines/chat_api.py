"""The two ways in which a recipe is asked for: /v1/chat/completions and /v1/responses. What differs between them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx2
from openai import AsyncOpenAI

from core.errors import InvalidRequest
from core.wire.workers import Ability
from orchestrator.engines import answer as answers
from prompts.render import Message

Fields = dict[str, Any]
_RENDERED = frozenset({"tools", "documents", "chat_template_kwargs"})
"""Fields of a body that chat templates put into the prompt."""

# A release's sampling is written in the words of chat completions. These are the same in both.
_SAME = frozenset(
    (
        *("temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty"),
        *("seed", "stop", "stop_token_ids", "ignore_eos", "logit_bias", "structured_outputs", "chat_template_kwargs"),
        *("skip_special_tokens", "include_stop_str_in_output", "priority", "parallel_tool_calls", "vllm_xargs"),
    )
)


@dataclass(frozen=True)
class Dialect:
    """`own` are the fields of a body that a recipe decides, or that are not the engine's; `ids` asks for token ids."""

    ability: Ability
    own: frozenset[str]
    history: Callable[[Mapping[str, Any]], list[Message]]
    sampling: Callable[[Mapping[str, Any]], Fields]
    messages: str
    ids: Mapping[str, bool]
    reader: answers.Reader

    def call(self, client: AsyncOpenAI, model: str, messages: list[Message], fields: Mapping[str, Any]) -> Any:
        """The openai client's call, not made yet; `messages` pass as the registry rendered and the caller sent them.

        In its `extra_body`: in their own place it looks at each for what it may have to convert, for milliseconds.
        """
        body = self._body(messages, fields)
        if self.messages == "input":
            return client.responses.with_streaming_response.create(model=model, input="", extra_body=body)
        return client.chat.completions.with_streaming_response.create(model=model, messages=[], extra_body=body)

    async def whole(
        self, client: AsyncOpenAI, model: str, messages: list[Message], fields: Mapping[str, Any]
    ) -> httpx2.Response:
        """The same for an answer that is wanted whole."""
        async with self.call(client, model, messages, fields) as response:
            await response.read()
            answer: httpx2.Response = response.http_response
            return answer

    def _body(self, messages: list[Message], fields: Mapping[str, Any]) -> Fields:
        return {**fields, **self.ids, self.messages: messages}


def shown(fields: Mapping[str, Any]) -> Fields:
    """Of the fields that pass to the engine, those that the model is shown."""
    return {name: value for name, value in fields.items() if name in _RENDERED}


def variables(given: Mapping[str, Any]) -> Fields:
    """A recipe's variables; a text may be given as OpenAI's `input_text` part."""
    return {name: value["text"] if _is_text(value) else value for name, value in given.items()}


def _is_text(value: Any) -> bool:
    return isinstance(value, dict) and set(value) == {"type", "text"} and value["type"] == "input_text"


def _turns(body: Mapping[str, Any]) -> list[Message]:
    """The caller's own messages, which follow or go into the recipe's."""
    messages = body.get("messages")
    if messages is None:
        return []
    if not isinstance(messages, list) or not all(isinstance(m, dict) and "role" in m for m in messages):
        raise InvalidRequest("`messages` must be a list of messages.", param="messages", code="invalid_messages")
    return messages


def _items(body: Mapping[str, Any]) -> list[Message]:
    """The same of /v1/responses: its `input`, before it its `instructions`."""
    given, instructions = body.get("input"), body.get("instructions")
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given or []
    known = isinstance(items, list) and all(isinstance(i, dict) and ("role" in i or "type" in i) for i in items)
    if not known:
        raise InvalidRequest("`input` must be a text or a list of items.", param="input", code="invalid_messages")
    if instructions is not None and not isinstance(instructions, str):
        raise InvalidRequest("`instructions` must be a text.", param="instructions", code="invalid_messages")
    return [{"role": "system", "content": instructions}, *items] if instructions else items


def _for_responses(sampling: Mapping[str, Any]) -> Fields:
    """A release's sampling in the words of /v1/responses. Raises InvalidRequest where it has none for a field."""
    made: Fields = {}
    for name, value in sampling.items():
        if name in _SAME:
            made[name] = value
        elif name in ("max_tokens", "max_completion_tokens"):
            made["max_output_tokens"] = value
        elif name == "response_format":
            made["text"] = {"format": {"type": value.get("type"), **(value.get("json_schema") or {})}}
        elif name == "reasoning_effort":
            made["reasoning"] = {"effort": value}
        elif name == "tools":
            made["tools"] = [{"type": tool.get("type"), **(tool.get("function") or {})} for tool in value]
        else:
            raise InvalidRequest(
                f"This recipe's `{name}` has no counterpart in /v1/responses: ask /v1/chat/completions.",
                param="prompt.id",
                code="not_for_responses",
            )
    return made


CHAT = Dialect(
    ability="chat",
    own=frozenset({"model", "messages", "prompt", "chat_template"}),
    history=_turns,
    sampling=dict,
    messages="messages",
    ids={"return_token_ids": True},
    reader=answers.CHAT,
)
RESPONSES = Dialect(
    ability="responses",
    own=frozenset({"model", "input", "instructions", "prompt", "chat_template", "previous_input_messages"}),
    history=_items,
    sampling=_for_responses,
    messages="input",
    ids={"enable_response_messages": True},
    reader=answers.RESPONSES,
)


def of_route(route: str) -> Dialect:
    return RESPONSES if route == "/v1/responses" else CHAT
