"""What a template may be: checked when it is saved, so that rendering is bounded and cannot surprise.

The syntax tree may hold only the nodes below. No calls, no arithmetic, no macros, no imports, no attributes that
start with an underscore; loops at most two deep; every variable is declared in the schema.
"""

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, TemplateSyntaxError, meta, nodes

from core.errors import InvalidRequest

MAX_BODY = 65_536  # characters
MAX_LOOP_DEPTH = 2

FILTERS = frozenset(
    (
        *("capitalize", "default", "first", "join", "last", "length", "list", "lower", "round", "sort", "title"),
        *("tojson", "trim", "truncate", "unique", "upper", "wordcount"),
    )
)
TESTS = frozenset(("defined", "none", "string", "number", "mapping", "sequence", "boolean", "in", "eq", "ne", "true"))

_ALLOWED: tuple[type[nodes.Node], ...] = (
    nodes.Template,
    nodes.Output,
    nodes.TemplateData,
    nodes.Name,
    nodes.Getattr,
    nodes.Getitem,
    nodes.Const,
    nodes.TemplateData,
    nodes.If,
    nodes.For,
    nodes.CondExpr,
    nodes.Compare,
    nodes.Operand,
    nodes.And,
    nodes.Or,
    nodes.Not,
    nodes.Filter,
    nodes.Test,
    nodes.Assign,
    nodes.Concat,
    nodes.List,
    nodes.Tuple,
    nodes.Keyword,
    nodes.Slice,
)


class TemplateError(InvalidRequest):
    """A template that may not be saved; the message names the line and what is wrong there."""


def check(environment: Environment, body: str, variables: Mapping[str, Any]) -> None:
    """Raise TemplateError unless `body` is a template that reads only the properties of the schema `variables`."""
    if len(body) > MAX_BODY:
        raise _refuse(1, f"longer than {MAX_BODY} characters")
    if not body.strip():
        raise _refuse(1, "empty")
    try:
        tree = environment.parse(body)
    except TemplateSyntaxError as exc:
        raise _refuse(exc.lineno, exc.message or "syntax error") from exc
    _walk(tree, depth=0, in_set=False)
    undeclared = sorted(meta.find_undeclared_variables(tree) - set(variables.get("properties", {})))
    if undeclared:
        raise _refuse(_line_of(tree, undeclared[0]), f"reads `{undeclared[0]}`, which the schema does not declare")


def _walk(node: nodes.Node, *, depth: int, in_set: bool) -> None:
    """Refuse the first node that is not allowed, or allowed only elsewhere."""
    if not isinstance(node, _ALLOWED):
        raise _refuse(node.lineno, f"{type(node).__name__.lower()} is not allowed")
    if isinstance(node, nodes.For):
        depth += 1
        if depth > MAX_LOOP_DEPTH or node.recursive:
            raise _refuse(node.lineno, f"loops nest deeper than {MAX_LOOP_DEPTH}")
    if isinstance(node, nodes.Assign):
        in_set = True
    if isinstance(node, nodes.Concat) and in_set:
        raise _refuse(node.lineno, "a set may not concatenate: text could double without end")
    if isinstance(node, nodes.Filter) and node.name not in FILTERS:
        raise _refuse(node.lineno, f"the filter `{node.name}` is not allowed")
    if isinstance(node, nodes.Test) and node.name not in TESTS:
        raise _refuse(node.lineno, f"the test `{node.name}` is not allowed")
    if isinstance(node, nodes.Getattr) and node.attr.startswith("_"):
        raise _refuse(node.lineno, f"the attribute `{node.attr}` is not allowed")
    for child in node.iter_child_nodes():
        _walk(child, depth=depth, in_set=in_set)


def _line_of(tree: nodes.Template, name: str) -> int:
    return next((node.lineno for node in tree.find_all(nodes.Name) if node.name == name), 1)


def _refuse(line: int, what: str) -> TemplateError:
    return TemplateError(f"line {line}: {what}", code="template_refused")
