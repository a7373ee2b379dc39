"""Strings that chat models read as structure. In somebody's text they would end a turn and begin another."""

import re
from collections.abc import Mapping
from typing import Any

CONTROL_TOKEN = re.compile(
    r"<\|[\w\-. ]{1,64}\|>|<｜[^｜\n]{1,64}｜>|\[/?(?:INST|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|SYSTEM_PROMPT)\]"
    r"|<<?/?SYS>>?|</?s>|<(?:start|end)_of_(?:turn|image)>|<(?:bos|eos|pad|unk)>"
)
_OPENING = re.compile(r"[<\[]")


def find_in_text(text: str) -> str | None:
    """The first control token of a text."""
    if "<" not in text and "[" not in text:
        return None
    found = CONTROL_TOKEN.search(text)
    return found[0] if found else None


def find(value: Any) -> str | None:
    """The first control token inside any string of a JSON value."""
    if isinstance(value, str):
        return find_in_text(value)
    if isinstance(value, Mapping):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list | tuple):
        return next((token for token in map(find, value) if token), None)
    return None


def neutralised(value: Any) -> Any:
    """The same JSON value, every control token's brackets set apart by a space: no tokenizer takes it for one."""
    if isinstance(value, str):
        while find_in_text(value):
            value = CONTROL_TOKEN.sub(lambda found: _OPENING.sub(lambda m: m[0] + " ", found[0]), value)
        return value
    if isinstance(value, Mapping):
        return {neutralised(key): neutralised(inner) for key, inner in value.items()}
    return [neutralised(inner) for inner in value] if isinstance(value, list | tuple) else value
