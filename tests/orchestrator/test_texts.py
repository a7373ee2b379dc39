"""What a body says is all that is in it: each string is judged, each picture seen, and what nobody can read refused."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InvalidRequest
from orchestrator.gateway import body_texts
from orchestrator.policy import texts
from orchestrator.policy.decide import Rules, decide
from tests.orchestrator.planted import everywhere, places, planted

HARD = "zzexplicit"
PNG = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUg=="
FUNCTION = {
    "name": "find",
    "description": "Finds",
    "parameters": {"type": "object", "properties": {"a": {"type": "string", "enum": ["b", 1]}}, "required": ["a"]},
}
CHAT: dict[str, Any] = {
    "model": "small",
    "messages": [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "hello"}, {"text": "there"}], "name": "me"},
        {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": {"arguments": '{"a": 1}'}}]},
        {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "found"}]},
    ],
    "tools": [{"type": "function", "function": FUNCTION}],
    "documents": [{"title": "t", "text": "long", "numbers": [1, 2]}],
    "response_format": {"type": "json_schema", "json_schema": {"schema": {"enum": ["x", 2]}}},
    "structured_outputs": {"choice": ["yes", "no"], "grammar": "root ::= yes"},
    "metadata": {"label": "mine"},
    "stop": ["end"],
    "stop_token_ids": [1, 2],
    "temperature": 0.5,
    "user": "me",
}
RESPONSES: dict[str, Any] = {
    "model": "small",
    "instructions": "be brief",
    "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "hello"}]},
        {"type": "function_call", "call_id": "1", "name": "find", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "1", "output": [{"type": "input_text", "text": "found"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "so", "annotations": []}]},
    ],
    "tools": [{"type": "function", **FUNCTION}],
    "text": {"format": {"type": "json_schema", "name": "n", "schema": {"enum": ["x"]}}},
    "metadata": {"label": "mine"},
}
COMPLETION: dict[str, Any] = {"model": "small", "prompt": ["once", "upon"], "suffix": "end", "stop": "x", "echo": True}
IMAGE: dict[str, Any] = {"prompt": "a boat", "negative_prompt": "blurred", "lora": "ink", "size": "64x64", "steps": 4}
BODIES: dict[str, tuple[dict[str, Any], dict[str, bool]]] = {
    "chat": (CHAT, {}),
    "responses": (RESPONSES, {"responses": True}),
    "completion": (COMPLETION, {"completion": True}),
    "image": (IMAGE, {}),
}
PICTURES: dict[str, Any] = {
    "a part": {"type": "image_url", "image_url": {"url": "https://pictures.test/a.png"}},
    "a part of no type": {"image_url": {"url": "https://pictures.test/a.png"}},
    "a part of no type and no content": {"image_url": None, "uuid": "known"},
    "an input": {"type": "input_image", "image_url": "https://pictures.test/a.png"},
    "an input by id": {"type": "input_image", "file_id": "file-1"},
    "one with a name of its own": {"image": "iVBORw0KGgo"},
    "several": {"images": ["iVBORw0KGgo"]},
    "a reference": {"input_reference": "abc"},
    "a film": {"type": "video_url", "video_url": {"url": "https://films.test/a.mp4"}},
    "a recording": {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
    "a file": {"type": "file", "file": {"file_data": "data:video/mp4;base64,AAAA"}},
    "an address in a text": f"look at this: {PNG}",
    "an address in capitals": "DATA:Image/PNG;base64,AAAA",
    "the bytes alone": "iVBORw0KGgo" + "A" * 400,
}


def read(body: dict[str, Any], how: dict[str, bool]) -> body_texts.BodyTexts:
    sent = json.dumps(body).encode()
    return body_texts.read(sent, responses="responses" in how, completion="completion" in how)


def refused(body: dict[str, Any], how: dict[str, bool]) -> bool:
    said = read(body, how)
    decision = decide(said.strings, tier=1, surface="text", rules=Rules(), subject=said.subject)
    return said.unread is not None or decision.action == "refuse"


@pytest.mark.parametrize("kind", BODIES)
def test_a_word_is_judged_wherever_it_stands(kind: str) -> None:
    body, how = BODIES[kind]
    assert not refused(body, how)
    for where, grown in everywhere(body, HARD, left_out=texts.NOT_SHOWN):
        assert refused(grown, how), where
    for where, grown in everywhere(body, {HARD: 1}):
        assert refused(grown, how), where


@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize("kind", BODIES)
def test_a_picture_is_seen_wherever_it_stands(kind: str, picture: str) -> None:
    body, how = BODIES[kind]
    assert not read(body, how).subject.real
    for where, grown in everywhere(body, PICTURES[picture], left_out=texts.NOT_SHOWN):
        assert read(grown, how).subject.real, where


NAMES = st.text("abcdefghij_", min_size=1, max_size=8)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=12)
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=20,
)


@given(JSON, st.data(), st.sampled_from(sorted(BODIES)))
def test_a_word_and_a_picture_in_any_json_are_seen(value: Any, data: st.DataObject, kind: str) -> None:
    body, how = BODIES[kind]
    path = data.draw(st.sampled_from(places(value)))
    at = data.draw(st.sampled_from([path for path in places(body) if path[0] not in texts.NOT_SHOWN]))
    assert refused(planted(body, at, planted(value, path, HARD)), how)
    assert refused(planted(body, at, planted(value, path, {HARD: None})), how)
    picture = data.draw(st.sampled_from(sorted(PICTURES)))
    assert read(planted(body, at, planted(value, path, PICTURES[picture])), how).subject.real


# -- what nobody can read ---------------------------------------------------------------------------------------------

UNREAD: dict[str, dict[str, Any]] = {
    "a number among texts": {"prompt": ["once", 22313.0]},
    "a text among numbers": {"prompt": [22313, "22313"]},
    "texts in a list of lists": {"prompt": [["22313"]]},
    "lists and texts": {"prompt": [[22313], "once"]},
    "a truth": {"prompt": [22313, True]},
    "a part of a number": {"prompt": [22313.5]},
    "a number below zero": {"prompt": [-1]},
    "a big number": {"prompt": [2**70]},
    "a bigger one": {"prompt": [1e300]},
    "an empty list among lists": {"prompt": [[1], []]},
    "objects": {"prompt": [{"id": 22313}]},
    "an object": {"prompt": {"prompt_token_ids": [22313]}},
    "a number": {"prompt": 22313},
    "a truth alone": {"prompt": True},
    "ids in a suffix": {"prompt": "a", "suffix": [22313]},
    "ids by another name": {"prompt": "a", "prompt_token_ids": [22313]},
    "ids by a third": {"prompt": "a", "input_ids": [[22313.0]]},
    "tensors": {"prompt": "a", "prompt_embeds": "AAAA"},
}
UNREAD_MESSAGES: dict[str, Any] = {
    "ids": [22313, 5],
    "ids as floats": [22313.0],
    "one among parts": [{"type": "text", "text": "a"}, 22313],
    "ids of a part": [{"type": "text", "text": [22313]}],
    "ids far down": [{"type": "text", "text": {"a": {"b": [[22313]]}}}],
    "truths": [True, False],
    "tensors": [{"type": "image_embeds", "image_embeds": "AAAA"}],
    "a file": [{"type": "file", "file": {"file_data": "data:application/pdf;base64,/+8="}}],
}


@pytest.mark.parametrize("what", UNREAD)
def test_a_completion_that_is_no_text_cannot_be_read(what: str) -> None:
    said = read({"model": "small", **UNREAD[what]}, {"completion": True})
    assert said.unread is not None
    assert not said.ids


@pytest.mark.parametrize("what", UNREAD_MESSAGES)
@pytest.mark.parametrize("name", ["messages", "input", "instructions", "negative_prompt", "previous_input_messages"])
def test_a_message_that_is_no_text_cannot_be_read(name: str, what: str) -> None:
    content = UNREAD_MESSAGES[what]
    for value in (
        content,
        [{"role": "user", "content": content}],
        [{"type": "function_call_output", "output": content}],
    ):
        said = read({"model": "small", name: value}, {"responses": True} if name == "input" else {})
        assert said.unread is not None


@pytest.mark.parametrize("where", ["tools", "documents", "stop_token_ids", "logit_bias", "x-new"])
def test_numbers_that_stand_for_no_text_pass(where: str) -> None:
    assert read({**CHAT, where: [1, 2.5, {"a": [3, None]}]}, {}).unread is None


def test_an_answer_that_is_sent_again_passes() -> None:
    part = {"type": "output_text", "text": "a", "logprobs": [{"token": "a", "bytes": [97], "logprob": -0.1}]}
    assert read({"input": [{"role": "assistant", "content": [part]}]}, {"responses": True}).unread is None


@pytest.mark.parametrize("prompt", [[1, 2.0, 3], [[1, 2], [3.0]], [[0]]])
def test_token_ids_are_told_apart(prompt: Any) -> None:
    said = read({"model": "small", "prompt": prompt}, {"completion": True})
    assert said.unread is None
    flat = prompt if isinstance(prompt[0], list) else [prompt]
    assert [list(map(int, one)) for one in flat] == list(said.ids)
    assert read({"model": "small", "prompt": prompt}, {}).unread == "prompt"  # another path decodes none


@pytest.mark.parametrize("prompt", [[[1]] * (body_texts.MOST_PROMPTS + 1), [1] * (body_texts.MOST_IDS + 1)])
def test_more_ids_than_a_tokenizer_is_asked_for_are_refused(prompt: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read({"prompt": prompt}, {"completion": True})
    assert (caught.value.param, caught.value.code) == ("prompt", "too_many_tokens")


@pytest.mark.parametrize(("escapes", "unread"), [(texts.MOST_ESCAPES, None), (texts.MOST_ESCAPES + 1, "image_url")])
def test_more_escapes_in_addresses_than_can_be_read_in_time_are_refused(escapes: int, unread: str | None) -> None:
    half = {"type": "image_url", "image_url": "data:text/plain," + "%61" * (escapes // 2)}
    whole = {"type": "image_url", "image_url": "data:text/plain," + "%61" * (escapes - escapes // 2)}
    assert texts.of([half, whole]).unread == unread


@pytest.mark.parametrize("sent", [b'{"x": 1e400}', b'{"x": "\xff"}', b'{"x": [1,]}'])
def test_what_routing_leaves_unread_is_valid_json_too(sent: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        body_texts.read(sent)
    assert caught.value.code in ("json_invalid", "invalid_body")


def test_names_of_a_tool_are_no_pictures() -> None:
    schema = {"type": "object", "properties": {"image": {"type": "string"}, "file": {"type": "string"}}}
    tools = [{"type": "function", "function": {"name": "draw", "parameters": schema}}]
    assert not read({**CHAT, "tools": tools}, {}).subject.real


def test_the_text_of_a_file_is_read() -> None:
    for data in ("data:text/plain,a%20zzexplicit%20one", "data:text/plain;base64,YSB6emV4cGxpY2l0IG9uZQ=="):
        said = texts.of({"file": {"file_data": data}})
        assert any("a zzexplicit one" in text for text in said.strings)


def test_what_no_model_is_shown_is_not_judged_in_its_known_shape() -> None:
    for name in texts.NOT_SHOWN:
        assert not refused({**CHAT, name: HARD}, {})
        assert refused({**CHAT, name: [HARD]}, {})
        assert refused({**CHAT, name: HARD + " " * texts.LONGEST_NAME}, {})
        assert refused({**CHAT, "metadata": {name: HARD}}, {})


@pytest.mark.parametrize("tail", ["", "=", " \n", "-_="])
@pytest.mark.parametrize("size", [0, texts._SLICE - 1, texts._SLICE, 2 * texts._SLICE + 1])
def test_a_picture_is_known_however_long_it_is(size: int, tail: str) -> None:
    whole = "data:image/png;base64," + "A" * size + tail
    assert texts._is_media_alone(whole)
    assert texts._is_media_alone(" " + whole.upper())
    assert not texts._is_media_alone(whole + " zzexplicit")
    assert not texts._is_media_alone(whole[:30] + "!" + whole[30:])


_role = st.sampled_from([*texts.ROLES, "narrator", 1, None])
_said = st.sampled_from(
    ["hello", "", "data:image/png;base64,aaaa", "/9j/" + "a" * 300, 5, None, ["hi"], {"text": "hi"}]
)
_message = st.fixed_dictionaries({"role": _role, "content": _said}, optional={"name": st.just("someone")})
_beside = {
    "model": st.sampled_from(["m", "m" * 600, 5]),
    "temperature": st.sampled_from([0.5, "warm", None]),
    "stop": st.sampled_from([None, "x", ["x"]]),
    "prompt": st.sampled_from([None, "hi", [1, 2]]),
    "made_up": st.integers(),
    "prompt_embeds": st.none() | st.just("AAAA"),
    "image": st.none() | st.just("AAAA"),
    "user": st.just("somebody"),
}


@given(st.fixed_dictionaries({"messages": st.lists(_message, max_size=4) | st.just("hi")}, optional=_beside))
def test_a_plain_chat_says_what_the_walk_of_it_finds(body: dict[str, Any]) -> None:
    """Plain messages are read without a walk of the whole body."""
    walked = texts.of({name: value for name, value in body.items() if not texts._is_name(name, value)})
    assert texts.of_body(body) == walked


def test_most_bodies_are_read_without_a_walk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "of", lambda value, name="": pytest.fail("walked"))
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}]
    body = {"model": "m", "messages": messages, "temperature": 0.7, "max_tokens": 64, "stream": True, "user": "u"}
    assert texts.of_body(body).strings == ["Be brief.", "hello"]
