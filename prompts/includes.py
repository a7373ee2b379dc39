"""Includes: a template may include another by name, pinned to a version when it is saved; that one includes nothing.

They are put in place before compiling, so that rendering never looks anything up.
"""

from collections.abc import Iterator, Mapping

from jinja2 import TemplateSyntaxError

from prompts import positions


def names(body: str) -> list[str]:
    """The templates that `body` includes, each once, in order."""
    return list(dict.fromkeys(name for _, _, name in _places(body)))


def expand(body: str, bodies: Mapping[str, str]) -> str:
    """`body` with every include replaced by the text it names. Raises KeyError for one that is not given."""
    text = body
    for start, end, name in reversed(list(_places(body))):
        text = text[:start] + bodies[name].rstrip("\n") + text[end:]
    return text


def _places(body: str) -> Iterator[tuple[int, int, str]]:
    """(start, end, name) of each `{% include "name" %}`. A template that cannot be read has none: the lint says why."""
    if "include" not in body:  # most have none, and reading them takes as long as a tenth of compiling
        return
    try:
        found = [token for token in positions.tokens(body) if token.kind != "whitespace"]
    except TemplateSyntaxError:
        return
    for at in range(len(found) - 3):
        begin, keyword, name, end = found[at : at + 4]
        if (begin.kind, keyword.text, name.kind, end.kind) == ("block_begin", "include", "string", "block_end"):
            yield begin.at, end.at + len(end.text), name.text[1:-1]
