"""Where in a template something stands: line and column, both from 1. Jinja's nodes know only their line."""

from collections.abc import Iterator
from typing import NamedTuple

from jinja2 import Environment, TemplateSyntaxError, nodes

_PLAIN = Environment()
_KEYWORDS: dict[type[nodes.Node], str] = {
    nodes.Call: "(",
    nodes.Add: "+",
    nodes.Sub: "-",
    nodes.Mul: "*",
    nodes.Div: "/",
    nodes.FloorDiv: "//",
    nodes.Mod: "%",
    nodes.Pow: "**",
    nodes.Neg: "-",
    nodes.Pos: "+",
    nodes.Concat: "~",
    nodes.Dict: "{",
    nodes.For: "for",
    nodes.If: "if",
    nodes.Assign: "set",
    nodes.AssignBlock: "set",
    nodes.Macro: "macro",
    nodes.CallBlock: "call",
    nodes.FilterBlock: "filter",
    nodes.With: "with",
    nodes.Block: "block",
    nodes.Include: "include",
    nodes.Import: "import",
    nodes.FromImport: "from",
    nodes.Extends: "extends",
}


class Token(NamedTuple):
    """A piece of a template: its first and last line, its offset, its kind and its text."""

    line: int
    at: int
    kind: str
    text: str


def tokens(body: str) -> Iterator[Token]:
    """The pieces of a template as the lexer cuts them. Raises TemplateSyntaxError."""
    at = 0
    for line, kind, text in _PLAIN.lex(body):
        found = body.find(text, at)
        if found >= 0:
            at = found
        yield Token(line, at, kind, text)
        if found >= 0:
            at += len(text)


def of_node(body: str, node: nodes.Node) -> tuple[int, int]:
    """Line and column of a node."""
    text = _KEYWORDS.get(type(node)) or getattr(node, "name", None) or getattr(node, "attr", None)
    return locate(body, node.lineno or 1, text if isinstance(text, str) else None)


def locate(body: str, line: int, text: str | None) -> tuple[int, int]:
    """Line and column of `text` on a line, or of the first tag there, or of the line's start."""
    start = _line_start(body, line)
    end = body.find("\n", start)
    end = len(body) if end < 0 else end
    try:
        inside = [t for t in tokens(body) if start <= t.at < end and t.kind not in ("data", "whitespace")]
    except TemplateSyntaxError:
        inside = []
    exact = next((t for t in inside if t.text == text), None) if text else None
    first = exact or next((t for t in inside if t.kind.endswith("_begin")), None)
    return line, (first.at if first else start) - start + 1


def _line_start(body: str, line: int) -> int:
    at = 0
    for _ in range(line - 1):
        following = body.find("\n", at)
        if following < 0:
            return at
        at = following + 1
    return at
