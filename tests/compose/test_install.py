"""Installing: the pins it reads, and the targets that a person calls."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from compose import install

ROOT = install.ROOT
PIN = re.compile(r"[A-Za-z0-9._-]+(\[[a-z0-9,]+\])?==[^\s;]+( ; .+)?")


def test_what_is_installed_alone_is_pinned() -> None:
    for name in ("uv", *install.APP_FILES_ONLY, *install.TEST_FILES_ONLY):
        assert re.fullmatch(rf"{name}==[\w.]+", install._pinned(name))
    with pytest.raises(SystemExit, match=r"constraints\.txt does not pin nothing-of-the-kind"):
        install._pinned("nothing-of-the-kind")


@pytest.mark.parametrize("name", ["constraints.txt", "constraints-vllm.txt"])
def test_pins_are_names_and_versions_alone(name: str) -> None:
    lines = (ROOT / name).read_text().splitlines()
    assert [line for line in lines if not PIN.fullmatch(line)] == []
    assert lines == sorted(lines, key=str.lower)


def test_what_is_installed_is_declared() -> None:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    assert {*install.APP_GROUPS, "test", "vllm-cpu", "vllm-gpu"} <= set(groups)
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    assert {*groups["files-only"], *groups["bootstrap"]} <= set(pins)


@pytest.mark.parametrize("name", ["install.py", "ports.py"])
def test_what_runs_before_installing_needs_only_python(name: str) -> None:
    tree = ast.parse((ROOT / "compose" / name).read_text())
    imported = {
        alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    imported |= {str(node.module).split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported <= sys.stdlib_module_names


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make here")
@pytest.mark.parametrize("target", ["up", "test", "check", "install", "format", "lint", "types", "lock", "clean"])
def test_a_person_can_make(target: str) -> None:
    done = subprocess.run(("make", "-n", target), cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_first_thing_that_up_does_is_to_look_at_its_ports() -> None:
    makefile = (ROOT / "Makefile").read_text()
    recipe = makefile.partition("\nup:")[2].split("\n\n")[0].splitlines()[1:]
    assert [Path(word).name for line in recipe for word in line.split() if "compose" in word][:2] == [
        "ports.py",
        "install.py",
    ]
