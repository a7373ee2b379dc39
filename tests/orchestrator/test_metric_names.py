"""The names that docs/gateway.md promises are those that an orchestrator exports, with those labels and no others."""

import re
from pathlib import Path

from prometheus_client import REGISTRY

import orchestrator.app  # noqa: F401 - declares every metric

PAGE = Path(__file__).resolve().parents[2] / "docs" / "gateway.md"
ROW = re.compile(r"^\| (`soundstage_\w+`(?:, `soundstage_\w+`)*) \|([\w, ]*)\|", re.MULTILINE)
BOUNDED = {"service", "route", "status", "outcome", "kind", "state", "ability", "reason", "direction"}


def test_the_documented_names_are_exported_with_their_labels() -> None:
    rows = ROW.findall(PAGE.read_text("utf-8"))
    promised = {name: labels for names, labels in rows for name in re.findall(r"\w+", names)}
    assert len(promised) >= 20
    exported = {
        name: tuple(collector._labelnames)  # type: ignore[attr-defined]
        for collector, names in REGISTRY._collector_to_names.items()
        for name in names
        if name.startswith("soundstage_")
    }
    for name, labels in promised.items():
        wanted = tuple(part.strip() for part in labels.split(",") if part.strip())
        assert exported.get(name) == wanted, name
        assert set(wanted) <= BOUNDED, name
