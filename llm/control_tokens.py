"""What a checkpoint's tokenizer reads as structure, from its files: announced, so that no message may hold it."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from core.control_tokens import COMMON, MAX_LENGTH, MAX_TOKENS

log = logging.getLogger(__name__)

_NAMED = ("bos_token", "eos_token", "pad_token", "unk_token", "cls_token", "sep_token", "mask_token")


class _AddedToken(msgspec.Struct):
    """One added token. Those that are not special (`<think>`, `<tool_call>`) are text that a model may be told of."""

    content: str = ""
    special: bool = False


class _Tokenizer(msgspec.Struct):
    """tokenizer.json, less its vocabulary."""

    added_tokens: list[_AddedToken] = []


def of_checkpoint(folder: Path, chat_template: str | None) -> tuple[str, ...] | None:
    """The special tokens of the checkpoint and the marks that its chat template writes. None, so that the common forms
    stand in, where none are found, a file is not understood, or they are too many."""
    try:
        found = {*_special(folder), *(COMMON.find_all(chat_template) if chat_template else ())}
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError, OSError) as exc:
        log.warning("control tokens not read", extra={"folder": str(folder), "reason": repr(exc)[:300]})
        return None
    found = {token for token in found if 0 < len(token) <= MAX_LENGTH}
    if len(found) > MAX_TOKENS:
        log.warning("too many control tokens to announce", extra={"folder": str(folder), "tokens": len(found)})
        return None
    return tuple(sorted(found)) or None


def _special(folder: Path) -> Iterator[str]:
    if (file := folder / "tokenizer.json").is_file():
        yield from (
            a.content for a in msgspec.json.decode(file.read_bytes(), type=_Tokenizer).added_tokens if a.special
        )
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (file := folder / name).is_file():
            yield from _configured(msgspec.json.decode(file.read_bytes(), type=dict[str, Any]))
    if (file := folder / "tekken.json").is_file():  # Mistral's own format
        for entry in msgspec.json.decode(file.read_bytes(), type=dict[str, Any]).get("special_tokens") or ():
            yield str(entry["token_str"])


def _configured(config: dict[str, Any]) -> Iterator[str]:
    """Of a tokenizer's settings: a token is a string, or an object with its content."""
    for added in (config.get("added_tokens_decoder") or {}).values():
        if added.get("special"):
            yield str(added["content"])
    for token in (*(config.get(name) for name in _NAMED), *(config.get("additional_special_tokens") or ())):
        if token:
            yield str(token["content"] if isinstance(token, dict) else token)
