"""What a template may be: checked when it is saved, so that rendering is bounded and cannot surprise.

The syntax tree may hold only the nodes below: no calls, no arithmetic, no macros, no imports, no attributes that start
with an underscore. Loops go over declared arrays, at most two deep. Every variable is declared in the schema. The work
of a rendering is estimated and bounded, and some text is certain to come out.
"""

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, TemplateSyntaxError, meta, nodes

from core import control_tokens
from core.errors import InvalidRequest
from prompts import cost, positions

MAX_BODY = 32_768  # characters
MAX_TOKENS = 3_000  # lexer tokens
MAX_LOOP_DEPTH = 2
MAX_ARGUMENT = 200  # characters of a filter's text, or a filter's number

FILTERS = frozenset(
    (
        *("capitalize", "default", "first", "join", "last", "length", "list", "lower", "round", "sort", "title"),
        *("tojson", "trim", "truncate", "unique", "upper", "wordcount"),
    )
)
OF_ARRAYS = frozenset(("join", "list", "sort", "unique", "first", "last"))
TESTS = frozenset(("defined", "none", "string", "number", "mapping", "sequence", "boolean", "in", "eq", "ne", "true"))
_RESERVED = frozenset(("self", "caller", "varargs", "kwargs", "super"))

_ALLOWED: frozenset[type[nodes.Node]] = frozenset(
    (
        *(nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Getattr, nodes.Getitem, nodes.Const),
        *(nodes.If, nodes.For, nodes.CondExpr, nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not),
        *(nodes.Filter, nodes.Test, nodes.Assign, nodes.List, nodes.Tuple, nodes.Keyword, nodes.Slice, nodes.Include),
    )
)


class TemplateError(InvalidRequest):
    """A template that may not be saved; the message says where (line, column) and what is wrong there."""

    def __init__(self, where: str, line: int, column: int, what: str) -> None:
        place = f"{where}: line {line}, column {column}" if where else f"line {line}, column {column}"
        super().__init__(f"{place}: {what}", param=where or None, code="template_refused")
        self.line, self.column, self.what = line, column, what


def check(
    environment: Environment, body: str, variables: Mapping[str, Any], *, where: str = "", included: bool = False
) -> None:
    """Raise TemplateError unless `body` is a template that reads only the properties of the schema `variables`."""
    _Lint(body, variables, where, included).check(environment)


def check_output(environment: Environment, body: str, variables: Mapping[str, Any], *, where: str = "") -> None:
    """Raise TemplateError where a template (its includes in place) may come out empty or take too long."""
    tree = environment.parse(body)
    if not cost.always_speaks(tree.body, variables):
        raise TemplateError(where, 1, 1, "can render empty: no text outside of conditions, no required variable")
    work = cost.of_template(tree, variables)
    if work > cost.MAX_WORK:
        raise TemplateError(where, 1, 1, f"may take too long: {work} steps of work, {cost.MAX_WORK} at most")


class _Lint:
    """One template being looked at."""

    def __init__(self, body: str, variables: Mapping[str, Any], where: str, included: bool) -> None:
        self.body, self.variables, self.where, self.included = body, variables, where, included
        self.arrays = cost.Scope(variables)

    def check(self, environment: Environment) -> None:
        if len(self.body) > MAX_BODY:
            raise TemplateError(self.where, 1, 1, f"longer than {MAX_BODY} characters")
        if not self.body.strip():
            raise TemplateError(self.where, 1, 1, "empty")
        tree = self._parse(environment)
        self._walk(tree, 0, self.arrays)
        declared = set(self.variables.get("properties", {}))
        for name in sorted(meta.find_undeclared_variables(tree) - declared):
            node = next(node for node in tree.find_all(nodes.Name) if node.name == name)
            self._refuse(node, f"reads `{name}`, which the schema does not declare")

    def _parse(self, environment: Environment) -> nodes.Template:
        try:
            if sum(1 for _ in zip(positions.tokens(self.body), range(MAX_TOKENS + 1), strict=False)) > MAX_TOKENS:
                raise TemplateError(self.where, 1, 1, f"more than {MAX_TOKENS} tokens")
            return environment.parse(self.body)
        except TemplateSyntaxError as exc:
            line, column = positions.locate(self.body, exc.lineno, None)
            raise TemplateError(self.where, line, column, exc.message or "syntax error") from exc
        except RecursionError as exc:
            raise TemplateError(self.where, 1, 1, "nests too deeply") from exc
        except (ValueError, OverflowError) as exc:
            raise TemplateError(self.where, 1, 1, f"holds a number that cannot be read: {exc}") from exc

    def _walk(self, node: nodes.Node, depth: int, scope: cost.Scope, *, in_set: bool = False) -> None:
        """Refuse the first node that is not allowed, or allowed only elsewhere."""
        if type(node) not in _ALLOWED:
            self._refuse(node, f"{type(node).__name__.lower()} is not allowed")
        if depth > 60:
            self._refuse(node, "nests too deeply")
        if isinstance(node, nodes.For):
            scope = self._loop(node, scope)
        elif isinstance(node, nodes.Assign):
            self._assignment(node)
            in_set = True
        elif isinstance(node, nodes.Filter):
            self._filter(node, scope, in_set)
        else:
            self._leaf(node, in_set)
        for child in node.iter_child_nodes():
            self._walk(child, depth + 1, scope, in_set=in_set)

    def _leaf(self, node: nodes.Node, in_set: bool) -> None:
        if isinstance(node, nodes.Test) and node.name not in TESTS:
            self._refuse(node, f"the test `{node.name}` is not allowed")
        if isinstance(node, nodes.Getattr) and node.attr.startswith("_"):
            self._refuse(node, f"the attribute `{node.attr}` is not allowed")
        if isinstance(node, nodes.Name) and (node.name in _RESERVED or node.name.startswith("_")):
            self._refuse(node, f"the name `{node.name}` is not allowed")
        if in_set and isinstance(node, nodes.List | nodes.Tuple):
            self._refuse(node, "a set may not build a list: text could double without end")
        if isinstance(node, nodes.Include) and (self.included or not isinstance(node.template, nodes.Const)):
            self._refuse(node, "an include names one template, and an included one includes nothing")
        if isinstance(node, nodes.Include) and node.ignore_missing:
            self._refuse(node, "`ignore missing` is not allowed")
        text = node.data if isinstance(node, nodes.TemplateData) else None
        text = node.value if isinstance(node, nodes.Const) else text
        if isinstance(text, str) and control_tokens.COMMON.find_in_text(text):
            self._refuse(node, "holds a control token; a message's role is not written in its text")

    def _loop(self, node: nodes.For, scope: cost.Scope) -> cost.Scope:
        if node.recursive or scope.depth + 1 > MAX_LOOP_DEPTH:
            self._refuse(node, f"loops nest deeper than {MAX_LOOP_DEPTH}")
        if scope.array(node.iter) is None:
            self._refuse(node, "a loop goes over an array that the schema declares")
        return scope.inside(node)

    def _assignment(self, node: nodes.Assign) -> None:
        if not isinstance(node.target, nodes.Name):
            self._refuse(node, "a set names one variable")
        elif node.target.name in self.variables.get("properties", {}):
            self._refuse(node, f"`{node.target.name}` is a variable of the schema: a set may not change it")

    def _filter(self, node: nodes.Filter, scope: cost.Scope, in_set: bool) -> None:
        if node.name not in FILTERS:
            self._refuse(node, f"the filter `{node.name}` is not allowed")
        arguments = [*node.args, *(keyword.value for keyword in node.kwargs)]
        if node.dyn_args is not None or node.dyn_kwargs is not None:
            self._refuse(node, "a filter's arguments are written out")
        if node.name != "default" and not all(_small(argument) for argument in arguments):
            self._refuse(node, f"a filter's arguments are constants of at most {MAX_ARGUMENT}")
        if node.name == "truncate" and not _can_truncate(node):
            self._refuse(node, "`truncate` keeps at least as many characters as its `end` has, and no leeway below 0")
        if node.name == "tojson" and (in_set or any(f.name == "tojson" for f in node.find_all(nodes.Filter))):
            self._refuse(node, "tojson is applied once, where the text comes out")
        if node.name in OF_ARRAYS and (node.node is None or scope.array(node.node) is None):
            self._refuse(node, f"`{node.name}` takes an array that the schema declares")

    def _refuse(self, node: nodes.Node, what: str) -> None:
        raise TemplateError(self.where, *positions.of_node(self.body, node), what)


def _can_truncate(node: nodes.Filter) -> bool:
    """As the filter itself would check it when it renders, in whichever branch it stands."""
    names = ("length", "killwords", "end", "leeway")
    given: dict[str, Any] = {"length": 255, "killwords": False, "end": "...", "leeway": None}
    written = [*zip(names, node.args, strict=False), *((str(keyword.key), keyword.value) for keyword in node.kwargs)]
    given.update((name, argument.value) for name, argument in written if isinstance(argument, nodes.Const))
    length, end, leeway = given["length"], given["end"], given["leeway"]
    if type(length) is not int or not isinstance(end, str) or not (leeway is None or type(leeway) is int):
        return False
    return length >= len(end) and (leeway or 0) >= 0


def _small(argument: nodes.Node) -> bool:
    if not isinstance(argument, nodes.Const):
        return False
    value = argument.value
    return len(value) <= MAX_ARGUMENT if isinstance(value, str) else value is None or abs(value) <= MAX_ARGUMENT * 10
