"""`make docs`: docs/metrics.md, read from the places in the code where metrics are declared.

The code is read, not run, so no service's libraries are needed. A test compares what is read with what the imported
modules really export.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "docs" / "metrics.md"

SERVICES = {
    "core": "Every service",
    "orchestrator": "Orchestrator",
    "llm": "Chat worker",
    "image": "Image worker",
    "vision": "Selfie worker",
}
KINDS = ("Counter", "Gauge", "Histogram")

INTRODUCTION = """\
# Metrics

For whoever watches a studio: every metric, its labels, its meaning. Each service answers `GET /metrics` in Prometheus'
text format, without a key. Keep that path inside your network: it names models and counts requests, and nothing else.
`compose/prometheus.yml` scrapes all four services; `compose/alerts.yml` says what deserves a person's attention, and
[incidents.md](incidents.md) what to do then. A name that ends in `_total` is a counter. No label holds a user, a
prompt, a key or an address. Each service also exports `process_*` and `python_*` metrics. This page is generated:
`make docs`.
"""


@dataclass(frozen=True)
class Declared:
    """A metric as the code declares it; `file` is relative to the root."""

    name: str
    kind: Literal["Counter", "Gauge", "Histogram"]
    meaning: str
    labels: tuple[str, ...]
    file: str

    @property
    def samples(self) -> frozenset[str]:
        """The names under which Prometheus keeps it."""
        if self.kind == "Histogram":
            return frozenset(f"{self.name}_{part}" for part in ("bucket", "sum", "count"))
        return frozenset({self.name})


def declared() -> list[Declared]:
    """Every metric of every service, in the order of files and lines."""
    files = (file for folder in SERVICES for file in sorted((ROOT / folder).rglob("*.py")))
    return [metric for file in files for metric in _of_file(file)]


def _of_file(file: Path) -> Iterator[Declared]:
    tree = ast.parse(file.read_text("utf-8"))
    imported = {
        name.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "prometheus_client"
        for name in node.names
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in imported & set(KINDS):
            yield _declaration(node, str(file.relative_to(ROOT)))


def _declaration(call: ast.Call, file: str) -> Declared:
    """Raises ValueError where a name, a meaning or a label is not written out."""
    arguments: list[ast.expr] = []
    for given in call.args:  # `*("name", "meaning", [...])` keeps some declarations on one line
        unpacked = given.value if isinstance(given, ast.Starred) else None
        arguments += unpacked.elts if isinstance(unpacked, ast.Tuple | ast.List) else [given]
    name, meaning, *labels = (ast.literal_eval(given) for given in arguments)
    assert isinstance(call.func, ast.Name)
    kind = next(kind for kind in KINDS if kind == call.func.id)
    return Declared(name, kind, meaning, tuple(labels[0]) if labels else (), file)  # type: ignore[arg-type]


def page() -> str:
    """The whole page."""
    metrics = declared()
    parts = [INTRODUCTION]
    for folder, title in SERVICES.items():
        lines = [_line(metric) for metric in metrics if metric.file.split("/")[0] == folder]
        parts.append(f"## {title}\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def _line(metric: Declared) -> str:
    labels = ",".join(metric.labels)
    kind = "" if metric.kind == "Counter" else f" ({metric.kind.lower()})"
    return f"- `{metric.name}{labels and f'{{{labels}}}'}`{kind}: {metric.meaning}"


if __name__ == "__main__":
    FILE.write_text(page(), "utf-8")
