"""The JSON Schema of a release's variables: a small, bounded part of the standard, so that any value is bounded too."""

from collections.abc import Mapping
from typing import Any

import jsonschema_rs

from core.errors import InvalidRequest

MAX_STRING = 100_000  # characters
MAX_ITEMS = 256
MAX_DEPTH = 4
NOTHING: Mapping[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}

_ANY = frozenset(("type", "title", "description", "default", "examples", "enum", "const"))
_KEYWORDS: dict[str, frozenset[str]] = {
    "string": frozenset(("minLength", "maxLength", "pattern", "format")),
    "array": frozenset(("items", "minItems", "maxItems", "uniqueItems")),
    "object": frozenset(("properties", "required", "additionalProperties")),
    "number": frozenset(("minimum", "maximum")),
    "integer": frozenset(("minimum", "maximum")),
    "boolean": frozenset(),
}


def compile_schema(schema: Mapping[str, Any]) -> Any:
    """A validator for variables. Raises InvalidRequest (`invalid_schema`) with the path of what is wrong."""
    _check(schema, "variables", 0)
    if schema["type"] != "object":
        raise _refuse("variables", "must be of type object")
    try:
        return jsonschema_rs.validator_for(dict(schema))
    except (jsonschema_rs.ValidationError, ValueError) as exc:
        raise InvalidRequest(f"The variables' JSON Schema is not valid: {exc}", code="invalid_schema") from exc


def _check(schema: Any, path: str, depth: int) -> None:
    """Refuse what is not bounded, or cannot be read without another document."""
    if not isinstance(schema, Mapping):
        raise _refuse(path, "must be a schema object")
    kind = schema.get("type")
    if not isinstance(kind, str) or kind not in _KEYWORDS:
        raise _refuse(path, f"needs a `type` of {', '.join(_KEYWORDS)}")
    unknown = sorted(set(schema) - _ANY - _KEYWORDS[kind])
    if unknown:
        raise _refuse(path, f"`{unknown[0]}` is not supported for {kind}")
    if depth > MAX_DEPTH:
        raise _refuse(path, f"nests deeper than {MAX_DEPTH}")
    if kind == "string" and "enum" not in schema and "const" not in schema:
        _bound(schema, path, "maxLength", MAX_STRING)
    if len(str(schema.get("pattern", ""))) > 200:
        raise _refuse(path, "`pattern` is longer than 200 characters")
    if kind == "array":
        _bound(schema, path, "maxItems", MAX_ITEMS)
        _check(schema.get("items"), f"{path}.items", depth + 1)
    if kind == "object":
        if schema.get("additionalProperties") is not False:
            raise _refuse(path, "needs `additionalProperties: false`")
        properties = schema.get("properties", {})
        if not isinstance(properties, Mapping):
            raise _refuse(f"{path}.properties", "must be an object of schemas")
        for name, inner in properties.items():
            _check(inner, f"{path}.{name}", depth + 1)


def _bound(schema: Mapping[str, Any], path: str, keyword: str, most: int) -> None:
    value = schema.get(keyword)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise _refuse(path, f"needs a `{keyword}` of at most {most}")


def longest_string(schema: Mapping[str, Any]) -> int:
    """The most characters that one string in a value of this schema can have."""
    inner = [*schema.get("properties", {}).values(), *([schema["items"]] if "items" in schema else [])]
    own = [schema.get("maxLength", 0), *(len(str(value)) for value in schema.get("enum", ()))]
    return max((*own, *map(longest_string, inner)), default=0)


def _refuse(path: str, what: str) -> InvalidRequest:
    return InvalidRequest(f"The variables' JSON Schema is not valid: {path}: {what}", param=path, code="invalid_schema")
