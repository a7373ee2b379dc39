"""Plants a value at each place of a JSON value: instead of every leaf, under a name of its own, as one more item."""

import copy
from collections.abc import Iterator
from typing import Any

Path = tuple[Any, ...]
NAME = "more"


def everywhere(value: Any, seed: Any, *, left_out: frozenset[str] = frozenset()) -> Iterator[tuple[str, Any]]:
    """(where, the value with `seed` planted there). `left_out`: names at the top that are not planted in."""
    for path in places(value):
        if path and path[0] in left_out and len(path) == 1:
            continue
        yield "/".join(map(str, path)), planted(value, path, seed)


def places(value: Any) -> list[Path]:
    if isinstance(value, dict):
        return [(NAME,), *((name, *rest) for name, inner in value.items() for rest in places(inner))]
    if isinstance(value, list):
        return [(len(value),), *((at, *rest) for at, inner in enumerate(value) for rest in places(inner))]
    return [()]


def planted(value: Any, path: Path, seed: Any) -> Any:
    if not path:
        return seed
    grown = copy.deepcopy(value)
    holder = grown
    for step in path[:-1]:
        holder = holder[step]
    if isinstance(holder, list) and path[-1] == len(holder):
        holder.append(seed)
    else:
        holder[path[-1]] = seed
    return grown
