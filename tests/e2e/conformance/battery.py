"""The requests: every field that an OpenAI client or vLLM's own extras can set, and every kind of mistake.

What is random has a seed; everything else is greedy.
"""

import json
from dataclasses import dataclass
from typing import Any

MODEL = "qwen_instruct"
CHAT, TEXT, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "maximum": 120}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
TOOL = {
    "type": "function",
    "function": {"name": "save_person", "description": "Save a person.", "parameters": PERSON},
}
NAMED = {"type": "function", "function": {"name": "save_person"}}
BREW = {"type": "function", "function": {"name": "brew", "description": "Brew tea.", "parameters": {"type": "object"}}}
TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is the capital of France?"},
    {"role": "assistant", "content": "Paris."},
    {"role": "user", "content": "And of Italy?"},
]


@dataclass(frozen=True)
class Case:
    """`body` is sent as JSON, or as it is where it is bytes; `within` marks the part that the test suite runs too."""

    name: str
    path: str
    body: dict[str, Any] | bytes
    within: bool = False
    method: str = "POST"
    content_type: str = "application/json"

    @property
    def data(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


def _asks(content: Any = "What is the capital of France?") -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


def chat(name: str, within: bool = False, **fields: Any) -> Case:
    body = {"model": MODEL, "messages": _asks(), "max_tokens": 10, "temperature": 0, **fields}
    return Case(name, CHAT, {key: value for key, value in body.items() if value is not ...}, within)


def text(name: str, within: bool = False, **fields: Any) -> Case:
    body = {"model": MODEL, "prompt": "The capital of France is", "max_tokens": 6, "temperature": 0, **fields}
    return Case(name, TEXT, {key: value for key, value in body.items() if value is not ...}, within)


def responses(name: str, within: bool = False, **fields: Any) -> Case:
    body = {"model": MODEL, "input": "What is the capital of France?", "max_output_tokens": 10, "temperature": 0}
    return Case(name, RESPONSES, {**body, **fields}, within)


def _sampling() -> list[Case]:
    sampled: dict[str, Any] = {"temperature": 1.0, "seed": 7}
    return [
        chat("temperature 0", True),
        chat("temperature with a seed", **sampled),
        chat("temperature 2, the most", temperature=2, seed=1),
        chat("top_p", **sampled, top_p=0.5),
        chat("top_k", **sampled, top_k=3),
        chat("min_p", **sampled, min_p=0.2),
        chat("everything that samples", True, **sampled, top_p=0.9, top_k=20, min_p=0.01, repetition_penalty=1.1),
        chat("presence_penalty", presence_penalty=1.5),
        chat("frequency_penalty", frequency_penalty=-1.5),
        chat("repetition_penalty", repetition_penalty=1.3),
        chat("logit_bias", logit_bias={"260": 5, "1": -100}),
        chat("bad_words", bad_words=["Paris"]),
        chat("allowed_token_ids", allowed_token_ids=[260, 314, 253, 2]),
        chat("stop, one", stop="capital"),
        chat("stop, several, kept in the answer", stop=["zzz", "of"], include_stop_str_in_output=True),
        chat("stop_token_ids", stop_token_ids=[260]),
        chat("min_tokens", min_tokens=9),
        chat("ignore_eos", ignore_eos=True, max_tokens=16),
        chat("max_completion_tokens", max_tokens=..., max_completion_tokens=3),
        chat("no limit of tokens", max_tokens=..., messages=_asks("Say hi."), stop=["."]),
        chat("n", True, n=3, temperature=1.0, seed=3),
        chat("skip_special_tokens off", skip_special_tokens=False),
        chat("spaces_between_special_tokens off", spaces_between_special_tokens=False),
        chat("truncate_prompt_tokens", truncate_prompt_tokens=8),
        chat("length penalty and beams off", use_beam_search=False, length_penalty=1.0),
    ]


def _answers() -> list[Case]:
    schema = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}}
    ask = _asks("Invent a person.")
    return [
        chat("logprobs", logprobs=True),
        chat("top_logprobs", True, logprobs=True, top_logprobs=3),
        chat("prompt_logprobs", prompt_logprobs=1, max_tokens=2),
        chat("return_token_ids", return_token_ids=True),
        chat("return_tokens_as_token_ids", logprobs=True, return_tokens_as_token_ids=True),
        chat("echo", echo=True),
        chat("turns", messages=TURNS),
        chat(
            "content in parts", messages=_asks([{"type": "text", "text": "What is"}, {"type": "text", "text": "1+1?"}])
        ),
        chat("names, developer role", messages=[{"role": "developer", "content": "Be brief."}, *_asks()], user="u-1"),
        chat("continue_final_message", messages=TURNS[:3], add_generation_prompt=False, continue_final_message=True),
        chat("unicode", messages=_asks("Grüße, 東京 \U0001f600 \u200b e\u0301")),
        chat("response_format text", response_format={"type": "text"}),
        chat("response_format json_object", response_format={"type": "json_object"}, messages=ask, max_tokens=30),
        chat("response_format json_schema", True, response_format=schema, messages=ask, max_tokens=40),
        chat("structured_outputs choice", structured_outputs={"choice": ["yes", "no"]}),
        chat("structured_outputs regex", structured_outputs={"regex": "[a-c]{4}"}),
        chat("structured_outputs json", structured_outputs={"json": PERSON}, messages=ask, max_tokens=40),
        chat("tools, auto", tools=[TOOL, BREW], tool_choice="auto", max_tokens=20),
        chat("tools, none", tools=[TOOL], tool_choice="none"),
        chat("tools, required", tools=[TOOL], tool_choice="required", messages=ask, max_tokens=60),
        chat("tools, one by name", True, tools=[TOOL], tool_choice=NAMED, messages=ask, max_tokens=60),
        chat("parallel_tool_calls off", tools=[TOOL], tool_choice=NAMED, parallel_tool_calls=False, max_tokens=60),
        chat("a tool's answer", messages=[*_asks(), *_tool_turns()], tools=[TOOL]),
        chat(
            "request metadata", metadata={"a": "b"}, store=False, service_tier="auto", user="u", safety_identifier="s"
        ),
        chat("unknown fields", x_unknown={"deep": [1, None]}),
        chat("prompt_cache_key and priority", prompt_cache_key="k", priority=0),
    ]


def _tool_turns() -> list[dict[str, Any]]:
    call = {"id": "call_1", "type": "function", "function": {"name": "save_person", "arguments": "{}"}}
    return [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "saved"},
    ]


def _streams() -> list[Case]:
    usage = {"include_usage": True}
    ask = _asks("Invent a person.")
    return [
        chat("stream", True, stream=True),
        chat("stream with usage", True, stream=True, stream_options=usage),
        chat("stream with usage in every event", stream=True, stream_options={**usage, "continuous_usage_stats": True}),
        chat("stream, n", stream=True, n=2, temperature=1.0, seed=5),
        chat("stream, logprobs", stream=True, logprobs=True, top_logprobs=2),
        chat("stream, stop", stream=True, stop=["capital"]),
        chat("stream, a tool by name", stream=True, tools=[TOOL], tool_choice=NAMED, messages=ask, max_tokens=60),
        chat("stream, token ids", stream=True, return_token_ids=True),
        chat("stream, a wrong field", stream=True, temperature=-1),
        text("completion, stream", True, stream=True, stream_options=usage),
        text("completion, stream, n", stream=True, n=2, temperature=1.0, seed=5),
        responses("responses, stream", stream=True),
    ]


def _others() -> list[Case]:
    return [
        text("completion", True),
        text("completion, logprobs", logprobs=2),
        text("completion, echo", echo=True, max_tokens=1),
        text("completion, several prompts", prompt=["The sky is", "Grass is"]),
        text("completion, n and best_of", n=2, temperature=1.0, seed=9),
        text("completion, no limit of tokens", max_tokens=...),
        text("completion, suffix", suffix=" and so on"),
        text("completion, stop", stop=["Paris"]),
        responses("responses", True),
        responses("responses, instructions", instructions="Be brief."),
        responses("responses, turns", input=[{"role": "user", "content": "Hi"}], metadata={"a": "b"}),
        Case("tokenize a prompt", "/tokenize", {"model": MODEL, "prompt": "Hello world"}, True),
        Case("tokenize messages", "/tokenize", {"model": MODEL, "messages": _asks(), "return_token_strs": True}),
        Case("detokenize", "/detokenize", {"model": MODEL, "tokens": [19556, 905]}, True),
        Case(
            "the query passes", CHAT + "?a=b", {"model": MODEL, "messages": _asks(), "max_tokens": 1, "temperature": 0}
        ),
    ]


def _mistakes() -> list[Case]:
    image = [{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]
    return [
        chat("temperature too high", True, temperature=9),
        chat("temperature as text", temperature="warm"),
        chat("max_tokens below 0", max_tokens=-1),
        chat("more tokens than the context", max_tokens=1_000_000),
        chat("a prompt beyond the context", messages=_asks("word " * 6000)),
        chat("top_p above 1", top_p=1.5),
        chat("n of 0", n=0),
        chat("messages as text", True, messages="hello"),
        chat("no messages", messages=[]),
        chat("messages left out", messages=...),
        chat("a message without a role", messages=[{"content": "hi"}]),
        chat("an unknown role", messages=[{"role": "wizard", "content": "hi"}]),
        chat("content as a number", messages=[{"role": "user", "content": 3}]),
        chat("top_logprobs without logprobs", top_logprobs=3),
        chat("a schema that is none", response_format={"type": "json_schema", "json_schema": {"name": "x"}}),
        chat("a regex that is none", structured_outputs={"regex": "["}),
        chat(
            "a tool choice that is not there", tools=[TOOL], tool_choice={"type": "function", "function": {"name": "x"}}
        ),
        chat("stream_options without stream", stream_options={"include_usage": True}),
        chat(
            "a picture for a model of text",
            messages=_asks([{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]),
        ),
        chat("an unknown model", model="nope"),
        chat("no model", model=...),
        chat("a picture from elsewhere", messages=_asks(image)),
        chat("the caller's own chat template", chat_template="{{ messages }}"),
        chat("arguments for the chat template", chat_template_kwargs={"a": 1}),
        chat("a control token in a message", messages=_asks("<|im_end|>")),
        text("completion, prompt left out", prompt=...),
        text("completion, token ids as the prompt", prompt=[504, 3575]),
        responses("responses, no such earlier one", previous_response_id="resp_none"),
        Case("not JSON", CHAT, b'{"model": '),
        Case("JSON that is no object", CHAT, b"[]"),
        Case("no body", CHAT, b""),
        Case("another content type", CHAT, b"model=x", content_type="text/plain"),
        Case("another method", CHAT, b"", method="GET"),
        Case("embeddings of a model that has none", "/v1/embeddings", {"model": MODEL, "input": "hi"}),
        Case("detokenize what is no token", "/detokenize", {"model": MODEL, "tokens": [-5]}),
    ]


CASES = [*_sampling(), *_answers(), *_streams(), *_others(), *_mistakes()]
