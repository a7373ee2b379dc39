"""What an answer took is found wherever it stands, and what a caller did not ask for is taken out of a stream."""

import json
from typing import Any

import pytest

from core.usage import Usage, UsageReader
from orchestrator.gateway.body import peek
from orchestrator.gateway.usage_stream import UsageRequest, UsageStream, requested_usage, with_usage_request

USAGE = {"prompt_tokens": 5, "total_tokens": 12, "completion_tokens": 7}
TOLD = {"input_tokens": 5, "output_tokens": 7, "total_tokens": 12}
LONG = "x" * 4000
DONE = b"data: [DONE]\n\n"


def packed(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def event(value: Any) -> bytes:
    return b"data: " + packed(value) + b"\n\n"


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


# -- whole answers, in vLLM's order -----------------------------------------------------------------------------------

NESTED = {"usage": {"prompt_tokens": 900, "total_tokens": 900}}
CHAT: dict[str, Any] = {"id": "c", "choices": [{"message": {"content": "Hi."}}]}
SPEAKS = '"usage":{"prompt_tokens":9} \\"usage\\": {"prompt_tokens": 9}, "usage'
WHOLE: dict[str, tuple[Any, Usage | None]] = {
    "last": (CHAT | {"usage": USAGE}, Usage(5, 7)),
    "before token ids": (CHAT | {"usage": USAGE, "prompt_token_ids": list(range(3000))}, Usage(5, 7)),
    "before the prompt's text": (CHAT | {"usage": USAGE, "prompt_text": LONG}, Usage(5, 7)),
    "before the prompt's logprobs": (
        CHAT | {"usage": USAGE, "prompt_logprobs": [{"7": {"logprob": -1}}] * 300},
        Usage(5, 7),
    ),
    "a response with a long user": ({"output": [], "usage": TOLD, "user": LONG}, Usage(5, 7)),
    "a response with its messages": ({"usage": TOLD, "user": None, "input_messages": [{"m": SPEAKS}]}, Usage(5, 7)),
    "first": ({"usage": USAGE} | CHAT, Usage(5, 7)),
    "a text that talks of it": (
        {"choices": [{"message": {"content": SPEAKS}}], "usage": USAGE, "z": SPEAKS},
        Usage(5, 7),
    ),
    "a text alone": ({"choices": [{"message": {"content": SPEAKS}}]}, None),
    "a tool's schema before it": ({"tools": [{"parameters": NESTED}], "usage": USAGE}, Usage(5, 7)),
    "a tool's schema after it": ({"usage": USAGE, "tools": [{"parameters": NESTED}]}, Usage(5, 7)),
    "a value of that name": ({"a": "usage", "usage": USAGE, "b": ["usage", ":", NESTED]}, Usage(5, 7)),
    "with details": ({"usage": USAGE | {"prompt_tokens_details": {"cached_tokens": 3}}}, Usage(5, 7)),
    "null": (CHAT | {"usage": None}, None),
    "thoughts that only the total holds": ({"usage": USAGE | {"total_tokens": 20}}, Usage(5, 15)),
    "a total alone": ({"usage": {"total_tokens": 4}}, Usage(4, 0)),
    "numbers that are none": ({"usage": {"prompt_tokens": -1, "completion_tokens": "7"}}, None),
    "backslashes": ({"a\\": "\\", "b": '\\"', "usage": USAGE, "c": "\\\\"}, Usage(5, 7)),
}


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1 << 20])
@pytest.mark.parametrize("spaced", [False, True], ids=["packed", "spaced"])
@pytest.mark.parametrize(("answer", "wanted"), WHOLE.values(), ids=WHOLE.keys())
def test_usage_is_found_wherever_it_stands(answer: Any, wanted: Usage | None, spaced: bool, size: int) -> None:
    reader = UsageReader()
    for piece in pieces(json.dumps(answer, indent=1).encode() if spaced else packed(answer), size):
        reader.feed(piece)
    assert reader.found == wanted


def test_what_is_kept_of_an_answer_does_not_grow() -> None:
    reader = UsageReader()
    for _ in range(100):
        reader.feed(b'{"a": "' + b"x" * 50_000)
        reader.feed(b'"}')
        assert len(reader._carried) <= len(b'"usage"')
    reader.feed(b'{"usage": {"a": "' + b"x" * (1 << 17))
    assert len(reader._carried) <= 1 << 17
    reader.feed(b"x" * (1 << 17))
    assert len(reader._carried) <= len(b'"usage"'), "no usage is so long: it is let go"


def response_events(**last: Any) -> bytes:
    begun: dict[str, Any] = {"type": "response.created", "response": {"usage": None, "tools": [{"parameters": NESTED}]}}
    text: list[dict[str, Any]] = [{"type": "response.output_text.delta", "delta": SPEAKS}] * 40
    done: dict[str, Any] = {
        "type": "response.completed",
        "response": {"tools": [{"parameters": NESTED}], "usage": TOLD, **last},
    }
    return b"".join(b"event: " + each["type"].encode() + b"\n" + event(each) for each in (begun, *text, done))


@pytest.mark.parametrize("size", [1, 5, 100, 1 << 20])
def test_a_streamed_response_counts_what_its_last_event_states(size: int) -> None:
    reader = UsageReader(2)
    for piece in pieces(response_events(user=LONG), size):
        reader.feed(piece)
    assert reader.found == Usage(5, 7)


# -- streams: what is asked for is taken out again --------------------------------------------------------------------

FP = "vllm-0.32-abc"


def stream(*, asked: bool, each: bool, answers: int = 1, chat: bool = True, ids: bool = False) -> list[bytes]:
    """As vLLM 0.32 writes it for a caller with these options (its serving code is the model): the fingerprint stands
    in the event that ends an answer, or in the usage's own."""

    def one(at: int, said: Any, done: int, finish: str | None = None, **more: Any) -> bytes:
        choice = {
            "index": at,
            **({"delta": said} if chat else {"text": said}),
            "logprobs": None,
            "finish_reason": finish,
        }
        usage = {"usage": {"prompt_tokens": 5, "total_tokens": 5 + done, "completion_tokens": done}} if each else {}
        own = {"system_fingerprint": FP} if finish and not asked else {}
        return event({"id": "x", "model": "m", "choices": [choice], **usage, **own, **more})

    found = []
    text: Any
    for at in range(answers):
        more: dict[str, Any] = {"prompt_token_ids": [1, 2, 3], "prompt_text": SPEAKS} if ids else {}
        found.append(one(at, {"role": "assistant", "content": ""} if chat else "", 0, **more))
    for done, text in enumerate((SPEAKS, "数字", "\n\ndata: x"), 1):
        for at in range(answers):
            found.append(one(at, {"content": text} if chat else text, done))
    for at in range(answers):
        found.append(one(at, {"content": ""} if chat else "", 4, "stop"))
    if asked:
        usage = {"prompt_tokens": 5, "total_tokens": 5 + 4 * answers, "completion_tokens": 4 * answers}
        found.append(event({"id": "x", "model": "m", "choices": [], "usage": usage, "system_fingerprint": FP}))
    return [*found, DONE]


CALLERS = {"nothing": UsageRequest(False, False), "the sum": UsageRequest(True, False), "all": UsageRequest(True, True)}


@pytest.mark.parametrize("size", [1, 3, 50, 333, 1 << 20])
@pytest.mark.parametrize("ids", [False, True])
@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("answers", [1, 3])
@pytest.mark.parametrize("wanted", CALLERS.values(), ids=CALLERS.keys())
def test_a_caller_gets_the_bytes_it_would_have_had(
    wanted: UsageRequest, answers: int, chat: bool, ids: bool, size: int
) -> None:
    passing = UsageStream(wanted._replace(answers=answers), cuts=True)
    engine = b"".join(stream(asked=True, each=True, answers=answers, chat=chat, ids=ids))
    passed = b"".join([passing.feed(piece) for piece in pieces(engine, size)]) + passing.rest()
    assert passed == b"".join(stream(asked=wanted.final, each=wanted.each, answers=answers, chat=chat, ids=ids))
    assert passing.found() == Usage(5, 4 * answers)


def test_events_of_one_answer_pass_at_once() -> None:
    """Only the one that ends it waits, for the event right after it."""
    passing = UsageStream(UsageRequest(False, False), cuts=True)
    *events, last, usage, done = stream(asked=True, each=True)
    assert all(passing.feed(each) for each in events)
    assert passing.feed(last) == b""
    assert FP.encode() in passing.feed(usage)
    assert passing.feed(done) == DONE


def test_several_answers_do_not_wait_for_one_another_once_the_fingerprint_is_known() -> None:
    passing = UsageStream(UsageRequest(False, False, 2), cuts=True, fingerprint=packed(FP))
    *events, usage, done = stream(asked=True, each=True, answers=2)
    assert all(passing.feed(each) for each in events)
    assert passing.feed(usage) == b""
    assert passing.feed(done) == DONE


@pytest.mark.parametrize("size", [1, 100, 1 << 20])
@pytest.mark.parametrize(("answers", "counted"), [(1, Usage(5, 2)), (3, Usage(5, 6))])
def test_a_stream_that_is_cut_short_is_counted_to_the_token(answers: int, counted: Usage, size: int) -> None:
    passing = UsageStream(UsageRequest(False, False, answers), cuts=True)
    for piece in pieces(b"".join(stream(asked=True, each=True, answers=answers)[: 3 * answers]), size):
        passing.feed(piece)
    assert passing.found() == counted


@pytest.mark.parametrize("digits", [10, 19, 22, 5_000])
def test_more_than_an_engine_can_have_made_counts_for_nothing(digits: int) -> None:
    usage = b'"usage":{"prompt_tokens":5,"total_tokens":%b,"completion_tokens":%b}' % ((b"9" * digits,) * 2)
    sent = b'data: {"choices":[{"index":0,"delta":{}}],%b}\n\ndata: [DONE]\n\n' % usage
    for size in (1, 100, len(sent)):
        passing = UsageStream(UsageRequest(False, False), cuts=True)
        passed = b"".join([passing.feed(piece) for piece in pieces(sent, size)]) + passing.rest()
        assert b'"choices"' in passed
        assert passing.found() in (None, Usage(5, 0))


def test_prompts_are_each_counted_once() -> None:
    passing = UsageStream(UsageRequest(False, False, 2, 2), cuts=True)
    for index, prompt in ((0, 5), (1, 5), (2, 8)):
        usage = {"prompt_tokens": prompt, "total_tokens": prompt + 3, "completion_tokens": 3}
        passing.feed(event({"choices": [{"index": index, "text": "a", "finish_reason": None}], "usage": usage}))
    assert passing.found() == Usage(13, 9, "estimate"), "of one answer nothing has come yet"


OTHERS: dict[str, tuple[bytes, bytes]] = {
    "spaces, and usage first": (
        b'data: {"usage": {"prompt_tokens": 1, "completion_tokens": 2}, "choices": [{"index": 0}]}\r\n\r\n',
        b'data: {"choices": [{"index": 0}]}\r\n\r\n',
    ),
    "usage between": (
        b'data: {"choices":[{"index":0}], "usage": {"prompt_tokens":1,"completion_tokens":2} ,"a":1}\n\n',
        b'data: {"choices":[{"index":0}],"a":1}\n\n',
    ),
    "the sum with spaces": (b'data: {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}}\n\n', b""),
    "null stays": (
        b'data: {"choices":[{"index":0}],"usage":null}\n\n',
        b'data: {"choices":[{"index":0}],"usage":null}\n\n',
    ),
    "no JSON": (b'data: {"usage": nothing\n\n', b'data: {"usage": nothing\n\n'),
    "a comment": (b': "usage": x\n\n', b': "usage": x\n\n'),
    "within another": (b'data: {"x":{"usage":{"prompt_tokens":1}},"choices":[]}\n\n',) * 2,
}


@pytest.mark.parametrize(("sent", "wanted"), OTHERS.values(), ids=OTHERS.keys())
def test_other_engines_write_it_otherwise(sent: bytes, wanted: bytes) -> None:
    for size in (1, 1000):
        passing = UsageStream(UsageRequest(False, False), cuts=True)
        assert b"".join([passing.feed(piece) for piece in pieces(sent, size)]) + passing.rest() == wanted


def test_a_line_without_end_passes_and_is_not_kept() -> None:
    passing = UsageStream(UsageRequest(False, False), cuts=True)
    sent = [b'data: {"a": "', *[b"x" * (1 << 20)] * 20]
    passed = [passing.feed(piece) for piece in sent]
    assert b"".join(passed) == b"".join(sent)
    assert len(passing._line) == 0


# -- what is asked of the engine --------------------------------------------------------------------------------------

ALL = {"include_usage": True, "continuous_usage_stats": True}
ASKED: dict[str, tuple[dict[str, Any], UsageRequest | None, dict[str, Any] | None]] = {
    "no stream": ({"m": 1}, None, None),
    "a stream": ({"stream": True}, UsageRequest(False, False), ALL),
    "as a text": ({"stream": "true"}, UsageRequest(False, False), ALL),
    "null options": ({"stream": True, "stream_options": None}, UsageRequest(False, False), ALL),
    "the sum": (
        {"stream": 1, "stream_options": {"include_usage": 1, "x": 2}},
        UsageRequest(True, False),
        {**ALL, "x": 2},
    ),
    "each without the sum": (
        {"stream": True, "stream_options": {"continuous_usage_stats": True}},
        UsageRequest(False, False),
        ALL,
    ),
    "all": ({"stream": True, "stream_options": ALL}, UsageRequest(True, True), ALL),
    "what an engine refuses": ({"stream": True, "stream_options": {"include_usage": "maybe"}}, None, None),
    "no object": ({"stream": True, "stream_options": [1]}, None, None),
    "a stream that is none": ({"stream": "perhaps"}, None, None),
}


@pytest.mark.parametrize(("body", "wanted", "options"), ASKED.values(), ids=ASKED.keys())
def test_what_an_engine_is_asked(
    body: dict[str, Any], wanted: UsageRequest | None, options: dict[str, Any] | None
) -> None:
    sent = b' {"a": "\\u00e9", ' + packed(body)[1:]
    found = peek(sent)
    assert requested_usage(found) == wanted
    if wanted is not None:
        asked = with_usage_request(sent, found)
        assert json.loads(asked) == {**json.loads(sent), "stream_options": options}
        assert b'"a": "\\u00e9", ' in asked, "the rest is as it was"


def test_of_a_field_that_is_given_twice_both_ask() -> None:
    sent = b'{"stream":true,"stream_options":{"include_usage":true},"stream_options":null}'
    assert with_usage_request(sent, peek(sent)).count(b"continuous_usage_stats") == 2
