"""Where in a template something stands: line and column, both from 1. Jinja's nodes know only their line."""

from collections.abc import Iterator
from typing import NamedTuple

from jinja2 import Environment, TemplateSyntaxError, nodes

_PLAIN = Environment()
_WORDS = """
    Call:( Add:+ Sub:- Mul:* Div:/ FloorDiv:// Mod:% Pow:** Neg:- Pos:+ Concat:~ Dict:{ For:for If:if Assign:set
    AssignBlock:set Macro:macro CallBlock:call FilterBlock:filter With:with Block:block Include:include Import:import
    FromImport:from Extends:extends
"""
_KEYWORDS = dict(pair.split(":") for pair in _WORDS.split())
"""What stands where a node of this kind begins."""


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
    text = _KEYWORDS.get(type(node).__name__) or getattr(node, "name", None) or getattr(node, "attr", None)
    return locate(body, node.lineno or 1, text if isinstance(text, str) else None)


def locate(body: str, line: int, text: str | None) -> tuple[int, int]:
    """Line and column of `text` on a line, or of the first tag there, or of the line's start."""
    lines = body.split("\n")
    start = sum(len(before) + 1 for before in lines[: line - 1])
    end = start + len(lines[line - 1])
    try:
        inside = [t for t in tokens(body) if start <= t.at < end and t.kind not in ("data", "whitespace")]
    except TemplateSyntaxError:
        inside = []
    exact = next((t for t in inside if t.text == text), None) if text else None
    first = exact or next((t for t in inside if t.kind.endswith("_begin")), None)
    return line, (first.at if first else start) - start + 1
