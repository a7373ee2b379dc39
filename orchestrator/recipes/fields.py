"""The fields that a caller sends with a recipe: which are refused, and how a record keeps them."""

from collections.abc import Mapping
from typing import Any

from core.errors import Conflict, InvalidRequest
from core.json.canonical import sha256_of_any

_SHOWING = frozenset(("echo", "prompt_logprobs", "return_prompt_text", "return_token_ids", "enable_response_messages"))
"""By these an engine repeats the prompt in its answer."""


def refuse_showing(fields: Mapping[str, Any]) -> None:
    """Raises InvalidRequest for a field that would show a recipe's text."""
    for name in _SHOWING.intersection(fields):
        if fields[name] not in (None, False):
            raise InvalidRequest(
                f"`{name}` would show the recipe's text, which is for admins' keys alone.",
                param=name,
                code="field_refused",
            )


def check_recorded(fields: Mapping[str, Any]) -> None:
    """Raises InvalidRequest for a field that the record of the run could not keep."""
    for name in fields:
        if "\0" in name:
            raise InvalidRequest("The name of a field holds a NUL character.", param=name, code="invalid_name")
    seed = fields.get("seed")
    if seed is not None and not (type(seed) is int and -(2**63) <= seed < 2**63):
        raise InvalidRequest("`seed` is a whole number of 64 bits.", param="seed", code="invalid_seed")


def recorded(request: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a request as a record keeps them: the release's `own` and plain numbers as they are, of what else
    the caller sent a hash only."""
    passing = {name: value for name, value in request.items() if name not in ("stream", "stream_options")}
    return {
        name: value
        if isinstance(value, int | float | None) or own.get(name) == value
        else {"sha256": sha256_of_any(value)}
        for name, value in passing.items()
    }


def unrecorded(sampling: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields again that `recorded` made `sampling` of. Raises Conflict where `fields` lack one, or hold another."""
    found = {}
    for name, value in sampling.items():
        if isinstance(value, dict) and set(value) == {"sha256"}:
            if name not in fields or sha256_of_any(fields[name]) != value["sha256"]:
                raise Conflict(
                    f"The run's `{name}` was not kept: send it in `fields`.", param="fields", code="other_fields"
                )
            value = fields[name]
        found[name] = value
    return found
