"""What the gateway reads of a body, and the one field that it may rewrite."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InvalidRequest
from orchestrator.gateway.body import Body, peek, stored_prompt

DEEP = 100_000

REFUSED: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "json_invalid"),
    "not JSON": (b"hello", "json_invalid"),
    "cut off": (b'{"model":"m"', "json_invalid"),
    "two values": (b'{"model":"m"} {}', "json_invalid"),
    "a byte order mark": (b'\xef\xbb\xbf{"model":"m"}', "json_invalid"),
    "not UTF-8 where it is read": (b'{"model":"\xff"}', "json_invalid"),
    "a bare control character": (b'{"model":"m","x":"a\nb"}', "json_invalid"),
    "NaN": (b'{"model":"m","x":NaN}', "json_invalid"),
    "a list": (b"[]", "invalid_body"),
    "a string": (b'"model"', "invalid_body"),
    "null": (b"null", "invalid_body"),
    "a model that is a number": (b'{"model":1}', "invalid_body"),
    "a model that is a list": (b'{"model":["m"]}', "invalid_body"),
    "nested without end": (b'{"model":"m","x":' + b"[" * DEEP + b"]" * DEEP + b"}", "json_too_deep"),
    "a chat template": (b'{"model":"m","chat_template":"{{ x }}"}', "field_refused"),
    "an empty chat template": (b'{"model":"m","chat_template":""}', "field_refused"),
    "a chat template in disguise": (b'{"model":"m","chat\\u005ftemplate":"x"}', "field_refused"),
    "a chat template that is no string": (b'{"model":"m","chat_template":{}}', "field_refused"),
}


@pytest.mark.parametrize(("body", "code"), REFUSED.values(), ids=REFUSED.keys())
def test_a_body_that_is_refused(body: bytes, code: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        peek(body)
    assert (caught.value.status, caught.value.code) == (400, code)


MODELS: dict[str, tuple[bytes, str | None]] = {
    "named": (b'{"model":"m"}', "m"),
    "missing": (b"{}", None),
    "null": (b'{"model":null}', None),
    "the last one counts": (b'{"model":"a","model":"b"}', "b"),
    "an escaped key": (b'{"mod\\u0065l":"m"}', "m"),
    "not at the top": (b'{"x":{"model":"inner"}}', None),
    "a null chat template": (b'{"model":"m","chat_template":null}', "m"),
    "template arguments": (b'{"model":"m","chat_template_kwargs":{"a":1}}', "m"),
}


@pytest.mark.parametrize(("body", "model"), MODELS.values(), ids=MODELS.keys())
def test_the_model_that_a_body_names(body: bytes, model: str | None) -> None:
    assert peek(body).model == model


PROMPTS: dict[str, tuple[str, tuple[str, str, dict[str, Any]] | None]] = {
    "none": ("{}", None),
    "null": ('{"prompt":null}', None),
    "a text, for completions": ('{"prompt":"{not a recipe}"}', None),
    "token ids": ('{"prompt":[1,2]}', None),
    "an id": ('{"prompt":{"id":"r"}}', ("r", "production", {})),
    "all": ('{"prompt": \n{"id":"r","version":"2","variables":{"a":[1]}}}', ("r", "2", {"a": [1]})),
    "what is left out as null": ('{"prompt":{"id":"r","version":null,"variables":null}}', ("r", "production", {})),
    "more than is known": ('{"prompt":{"id":"r","new":1}}', ("r", "production", {})),
}


@pytest.mark.parametrize(("body", "wanted"), PROMPTS.values(), ids=PROMPTS.keys())
def test_the_recipe_that_a_body_names(body: str, wanted: tuple[str, str, dict[str, Any]] | None) -> None:
    found = stored_prompt(peek(body.encode()))
    assert (found and (found.id, found.version, found.variables)) == wanted


BAD_PROMPTS = ["{}", '{"id":1}', '{"id":null}', '{"id":"r","version":2}', '{"id":"r","variables":[]}']


@pytest.mark.parametrize("prompt", BAD_PROMPTS)
def test_a_recipe_that_is_not_well_named(prompt: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        stored_prompt(peek(b'{"prompt":%s}' % prompt.encode()))
    assert (caught.value.code, caught.value.param) == ("invalid_prompt", "prompt")


REWRITTEN: dict[str, tuple[bytes, bytes]] = {
    "plain": (b'{"model":"a"}', b'{"model":"NEW"}'),
    "spacing stays": (b' {\t"model" :\n"a" , "n":1.0 }\r\n', b' {\t"model" :\n"NEW" , "n":1.0 }\r\n'),
    "every one at the top": (b'{"model":"a","x":1,"model":"b"}', b'{"model":"NEW","x":1,"model":"NEW"}'),
    "not inside": (b'{"x":{"model":"a"},"model":"a"}', b'{"x":{"model":"a"},"model":"NEW"}'),
    "not in a text": (b'{"x":"\\"model\\":\\"a\\"","model":"a"}', b'{"x":"\\"model\\":\\"a\\"","model":"NEW"}'),
    "an escaped key": (b'{"mod\\u0065l":"a"}', b'{"mod\\u0065l":"NEW"}'),
    "escapes in the value": (b'{"model":"a\\"b"}', b'{"model":"NEW"}'),
    "not UTF-8 elsewhere": (b'{"x":"\xff\xfe","model":"a"}', b'{"x":"\xff\xfe","model":"NEW"}'),
    "a line separator": ('{"x":"\u2028\x85","model":"a"}'.encode(), '{"x":"\u2028\x85","model":"NEW"}'.encode()),
    "a long number": (b'{"x":%s,"model":"a"}' % (b"1" * 5000), b'{"x":%s,"model":"NEW"}' % (b"1" * 5000)),
    "null": (b'{"model":null}', b'{"model":"NEW"}'),
}


@pytest.mark.parametrize(("body", "wanted"), REWRITTEN.values(), ids=REWRITTEN.keys())
def test_only_the_model_is_rewritten(body: bytes, wanted: bytes) -> None:
    assert Body(body).with_text("model", "NEW").sent == wanted


def test_a_body_too_deep_to_rewrite_is_refused() -> None:
    with pytest.raises(InvalidRequest) as caught:
        Body(b'{"x":' + b"[" * DEEP + b"]" * DEEP + b',"model":"a"}').with_text("model", "NEW")
    assert caught.value.code == "json_too_deep"


# -- any JSON, oddly written ------------------------------------------------------------------------------------------

BLANK = st.text(" \t\n\r", max_size=3)
TEXTS = st.text(max_size=8) | st.sampled_from(["model", "a", '{"model":"a"}', "\\", '"', "世界", "\u2028"])
NUMBERS = st.sampled_from(["0", "-0.0", "1E+02", "12345678901234567890", "1e999", "3.10"])


@st.composite
def written(draw: st.DrawFn, text: st.SearchStrategy[str] = TEXTS) -> str:
    """A JSON string, its characters as they are or escaped."""
    return json.dumps(draw(text), ensure_ascii=draw(st.booleans()))


def _values(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.builds(_object, BLANK, st.lists(st.tuples(written(), inner), max_size=4)) | st.builds(
        lambda blank, items: "[" + blank + f"{blank},".join(items) + blank + "]", BLANK, st.lists(inner, max_size=4)
    )


def _object(blank: str, members: list[tuple[str, str]]) -> str:
    pairs = f"{blank},{blank}".join(f"{key}{blank}:{blank}{value}" for key, value in members)
    return f"{blank}{{{blank}{pairs}{blank}}}{blank}"


VALUES = st.recursive(written() | NUMBERS | st.sampled_from(["true", "false", "null"]), _values, max_leaves=8)
MODEL_KEYS = st.sampled_from(['"model"', '"mod\\u0065l"', '"\\u006Dodel"'])


@given(
    members=st.lists(st.tuples(written(TEXTS.filter(lambda key: key != "model")), VALUES), max_size=5),
    models=st.lists(st.tuples(st.integers(0, 5), MODEL_KEYS, written()), max_size=3),
    blank=BLANK,
    new=st.text(max_size=10),
)
def test_any_body_keeps_every_other_byte(
    members: list[tuple[str, str]], models: list[tuple[int, str, str]], blank: str, new: str
) -> None:
    """The members are laid out with the old model and, again, with the new one: nothing else may differ."""
    before, after = list(members), list(members)
    for at, key, value in models:
        before.insert(at, (key, value))
        after.insert(at, (key, json.dumps(new)))
    assert Body(_object(blank, before).encode()).with_text("model", new).sent == _object(blank, after).encode()


@pytest.mark.parametrize("field", ["kv_transfer_params", "ec_transfer_params"])
def test_no_caller_tells_an_engine_where_to_fetch_a_cache(field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        peek(b'{"model": "m", "%s": {"remote_host": "10.0.0.1"}}' % field.encode())
    assert (caught.value.code, caught.value.param) == ("field_refused", field)
    assert peek(b'{"model": "m", "%s": null}' % field.encode()).model == "m"
