"""What a worker announces of a tokenizer: its special tokens and its template's marks, from the files alone."""

import json
from pathlib import Path
from typing import Any

import pytest

from core.control_tokens import _AT_ONCE, COMMON, MAX_TOKENS, Tokens, of_several
from llm.control_tokens import of_checkpoint


def write(folder: Path, name: str, value: Any) -> None:
    (folder / name).write_text(value if isinstance(value, str) else json.dumps(value))


def test_special_tokens_of_every_file_and_the_templates_marks(tmp_path: Path) -> None:
    added = [{"content": "<|im_end|>", "special": True}, {"content": "<think>", "special": False}]
    write(tmp_path, "tokenizer.json", {"model": {"vocab": {"a": 1}}, "added_tokens": added})
    config = {
        "added_tokens_decoder": {"7": {"content": "<|extra|>", "special": True}, "8": {"content": "<tool_call>"}},
        "bos_token": {"content": "<s>"},
        "pad_token": None,
        "additional_special_tokens": ["<|more|>", {"content": "<|most|>"}],
    }
    write(tmp_path, "tokenizer_config.json", config)
    write(tmp_path, "special_tokens_map.json", {"eos_token": "</s>"})
    write(tmp_path, "tekken.json", {"special_tokens": [{"rank": 1, "token_str": "[PREFIX]"}]})
    found = of_checkpoint(tmp_path, "{{ '[INST] ' + message.content + ' [/INST]' }}")
    assert found is not None
    assert set(found) == {
        *("<|im_end|>", "<|extra|>", "<s>", "</s>", "<|more|>", "<|most|>", "[PREFIX]", "[INST]", "[/INST]"),
    }


WRONG: dict[str, Any] = {
    "nothing": None,
    "not JSON": "{",
    "another shape": {"added_tokens": {"a": 1}},
    "too many": {"added_tokens": [{"content": f"<{n}>", "special": True} for n in range(MAX_TOKENS + 1)]},
    "too long": {"added_tokens": [{"content": "x" * 101, "special": True}]},
}


@pytest.mark.parametrize("value", WRONG.values(), ids=WRONG.keys())
def test_where_none_can_be_told_none_are_announced(tmp_path: Path, value: Any) -> None:
    if value is not None:
        write(tmp_path, "tokenizer.json", value)
    assert of_checkpoint(tmp_path, None) is None


def test_a_models_own_tokens_are_found_and_no_others() -> None:
    own = Tokens(["<|im_end|>", "<repo_name>"])
    assert own.find("see <repo_name>") == "<repo_name>"
    assert own.find("an html <s>strike</s> [INST]") is None
    assert COMMON.find("an html <s>strike</s>") == "<s>"


def test_models_that_answer_to_one_name_are_taken_together() -> None:
    assert of_several([("<a>",), ("<b>",)]).find("<b>") == "<b>"
    assert of_several([("<a>",), ("<b>",)]).find("<s>") is None
    assert of_several([("<a>",), None]).find("<s>") == "<s>"
    assert of_several([]) is of_several([None]) is COMMON


SAID: list[Any] = [
    "a <|im_end|> b",
    "<|<|im_end|>im_end|>",
    {"key <s>": ["<s>", 1, None]},
    [{"type": "text", "text": "a <|im_"}, {"type": "image_url"}, {"type": "text", "text": "end|>"}],
    "<<|im_end|><s>",
    "[x y][x y]",
]


@pytest.mark.parametrize("value", SAID, ids=repr)
def test_what_is_set_apart_is_found_no_more_and_the_tokens_seen_do_the_same_again(value: Any) -> None:
    tokens = Tokens(["<|im_end|>", "<s>", "[x y]", " ", "x", " lead"])
    seen: set[str] = set()
    made = tokens.neutralised(value, seen)
    assert tokens.find(value)
    assert tokens.find(made) is None
    assert Tokens(seen).neutralised(value) == made


@pytest.mark.parametrize("token", ["<|im_start|>", f"<|{'a' * 64}|>", "[INST]"])
@pytest.mark.parametrize("before", [*range(_AT_ONCE - 70, _AT_ONCE + 2, 7), 2 * _AT_ONCE])
def test_a_token_is_found_where_a_slice_of_a_long_text_ends(token: str, before: int) -> None:
    assert COMMON.find_in_text("a" * before + token + "b") == token
    assert COMMON.find_in_text("a" * before + token[:-1]) is None
