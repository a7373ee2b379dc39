"""Values made from a schema: the smallest, the fullest, each optional one alone, awkward texts. The same every time."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

LONG = 2_000  # characters of a long text
MAX_INSTANCES = 200
_AWKWARD = (
    "{{ 7 * 7 }} {% raw %}",
    "Quotes \" ' and \\ backslashes",
    "Ünïcödé, 漢字, عربى, 😀",
    "two\n\nparagraphs",
    "<b>not markup</b> & more",
)


def instances(schema: Mapping[str, Any], validator: Any) -> list[dict[str, Any]]:
    """Variables that fit the schema. Empty only where no value could be made for it: it needs `examples` then."""
    made = itertools.islice(_objects(schema), MAX_INSTANCES)
    found: list[dict[str, Any]] = []
    for value in made:
        if value not in found and validator.is_valid(value):
            found.append(value)
    return found


def _objects(schema: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    properties = {name: list(_values(inner)) for name, inner in schema.get("properties", {}).items()}
    required = set(schema.get("required", ()))
    least = {name: values[0] for name, values in properties.items() if name in required and values}
    full = {name: values[0] for name, values in properties.items() if values}
    yield dict(least)
    yield dict(full)
    for name, values in properties.items():
        for value in values:
            yield {**least, name: value}
            yield {**full, name: value}
        yield {key: value for key, value in full.items() if key != name or key in required}
    yield {name: values[-1] for name, values in properties.items() if values}


def _values(schema: Mapping[str, Any]) -> Iterator[Any]:
    """Values of one property, a plain one first."""
    if "const" in schema:
        yield schema["const"]
        return
    given = [*schema.get("examples", ()), *schema.get("enum", ())]
    yield from given
    if "enum" not in schema and not (given and ("pattern" in schema or "format" in schema)):
        yield from _made(schema)


def _made(schema: Mapping[str, Any]) -> Iterator[Any]:
    kind = schema["type"]
    if kind == "string":
        yield from _strings(int(schema.get("minLength", 0)), int(schema["maxLength"]))
    elif kind in ("number", "integer"):
        low = schema.get("minimum", min(0, schema.get("maximum", 0)))
        yield from (low, schema.get("maximum", low + 1000))
    elif kind == "boolean":
        yield from (True, False)
    elif kind == "array":
        yield from _arrays(schema)
    else:
        yield from _objects(schema)


def _strings(least: int, most: int) -> Iterator[str]:
    yield ("text " * (least // 5 + 2))[: max(least, min(most, 9))].replace(" ", "x")
    if least == 0:
        yield ""
    yield ("A long text. " * (LONG // 13))[: max(least, min(most, LONG))]
    for text in _AWKWARD:
        if least <= len(text[:most]):
            yield text[:most]


def _arrays(schema: Mapping[str, Any]) -> Iterator[list[Any]]:
    items = list(_values(schema["items"]))
    least, most = int(schema.get("minItems", 0)), int(schema["maxItems"])
    distinct = itertools.islice(itertools.cycle(items), max(least, min(most, len(items)))) if items else ()
    yield list(distinct)
    yield items[:least]
    yield (items * (most // max(1, len(items)) + 1))[: min(most, 20)]
