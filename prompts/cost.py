"""How much a template can do: which arrays its loops go over, the work they add up to, whether text is certain."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from jinja2 import nodes

from prompts.schema import longest_string

MAX_WORK = 200_000
"""Steps of about 0.1 µs: 20 ms on a slow core, a margin under the 50 ms that a rendering may take."""
STEP = 10  # a node's work
_KEEPS_ITEMS = frozenset(("list", "sort", "unique"))


@dataclass(frozen=True)
class Scope:
    """The schemas of the names that can be read at some place in a template."""

    variables: Mapping[str, Any]
    loop_names: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    depth: int = 0

    def schema(self, node: nodes.Node) -> Mapping[str, Any] | None:
        """The schema of what a name, an attribute or an item stands for; None where it is not known."""
        if isinstance(node, nodes.Name):
            return self.loop_names.get(node.name) or self.variables.get("properties", {}).get(node.name)
        if isinstance(node, nodes.Filter) and node.node is not None and node.name in _KEEPS_ITEMS:
            return self.schema(node.node)
        if isinstance(node, nodes.Getattr | nodes.Getitem):
            whole = self.schema(node.node) or {}
            if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice):
                return whole
            key = node.attr if isinstance(node, nodes.Getattr) else getattr(node.arg, "value", None)
            return whole.get("items") if isinstance(key, int) else whole.get("properties", {}).get(key)
        return None

    def array(self, node: nodes.Node) -> int | None:
        """How many items an array expression can have at most; None where it is not a declared array."""
        if isinstance(node, nodes.List | nodes.Tuple):
            return len(node.items)
        found = self.schema(node)
        return int(found["maxItems"]) if found and found.get("type") == "array" else None

    def inside(self, loop: nodes.For) -> "Scope":
        """The scope of a loop's body, where its target stands for an item."""
        target, whole = loop.target, self.schema(loop.iter)
        item = (whole or {}).get("items", {})
        names = {target.name: item} if isinstance(target, nodes.Name) else {}
        return replace(self, loop_names={**self.loop_names, **names}, depth=self.depth + 1)


def of_template(tree: nodes.Template, variables: Mapping[str, Any]) -> int:
    """The most work a rendering can be, in steps."""
    return _work(tree, Scope(variables), STEP + longest_string(variables))


def _work(node: nodes.Node, scope: Scope, text: int) -> int:
    own = text if isinstance(node, nodes.Filter | nodes.Compare) else STEP
    if isinstance(node, nodes.For):
        inside = scope.inside(node)
        body = sum(_work(child, inside, text) for child in (*node.body, *([node.test] if node.test else [])))
        return STEP + _work(node.iter, scope, text) + (scope.array(node.iter) or 0) * body
    return own + sum(_work(child, scope, text) for child in node.iter_child_nodes())


def always_speaks(body: Sequence[nodes.Node], variables: Mapping[str, Any]) -> bool:
    """Whether some text comes out whatever the values are."""
    return any(_speaks(node, variables) for node in body)


def _speaks(node: nodes.Node, variables: Mapping[str, Any]) -> bool:
    if isinstance(node, nodes.Output):
        return any(_speaks(part, variables) for part in node.nodes)
    if isinstance(node, nodes.TemplateData):
        return bool(node.data.strip())
    if isinstance(node, nodes.If):
        branches = [node.body, *(branch.body for branch in node.elif_), node.else_]
        return all(always_speaks(branch, variables) for branch in branches)
    if isinstance(node, nodes.Name):
        schema = variables.get("properties", {}).get(node.name, {})
        values = schema.get("enum") or ([schema["const"]] if "const" in schema else [])
        certain = all(str(value).strip() for value in values) if values else schema.get("minLength", 0) > 0
        return node.name in variables.get("required", ()) and (certain or schema.get("type") in ("number", "integer"))
    if isinstance(node, nodes.Const):
        return bool(str(node.value).strip())
    if isinstance(node, nodes.Filter) and node.node is not None:
        default = node.name == "default" and node.args and _speaks(node.args[0], variables)
        return bool(default) or (node.name in ("trim", "upper", "lower") and _speaks(node.node, variables))
    return (
        isinstance(node, nodes.CondExpr)
        and node.expr2 is not None
        and (_speaks(node.expr1, variables) and _speaks(node.expr2, variables))
    )
