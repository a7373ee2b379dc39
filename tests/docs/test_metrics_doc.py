"""docs/metrics.md is what the code declares, and what the code declares is what it exports."""

import importlib

from prometheus_client import REGISTRY

from compose import metrics_doc


def test_the_page_of_metrics_is_what_the_code_says() -> None:
    assert metrics_doc.FILE.read_text("utf-8") == metrics_doc.page(), "run: make docs"


def test_what_is_read_from_the_code_is_what_the_code_exports() -> None:
    metrics = metrics_doc.declared()
    for file in sorted({metric.file for metric in metrics}):
        importlib.import_module(file.removesuffix(".py").replace("/", "."))
    exported = {
        (family.name + ("_total" if family.type == "counter" else ""), family.type, family.documentation)
        for family in REGISTRY.collect()
        if family.name.startswith("soundstage_")
    }
    assert {(metric.name, metric.kind.lower(), metric.meaning) for metric in metrics} == exported
