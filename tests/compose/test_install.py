"""Installing: the pins it reads, and the targets that a person calls."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from compose import install
from compose.lock import ENVIRONMENTS, LOCKS

ROOT = install.ROOT
PIN = re.compile(r"[A-Za-z0-9._-]+(\[[a-z0-9,-]+\])?==[^\s;]+( ; .+)?")
GROUPS = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
LINUX = {"sys_platform": "linux", "platform_machine": "x86_64", "platform_system": "Linux"}
GPU_LOCKS = [name for name, lock in ENVIRONMENTS.items() if not lock.cpu]


def pins(name: str) -> dict[str, list[str]]:
    """The lines of a lock by package."""
    found: dict[str, list[str]] = {}
    for line in (LOCKS / f"{name}.txt").read_text().splitlines():
        found.setdefault(re.split(r"[\[=]", line)[0], []).append(line)
    return found


def test_there_is_one_lock_for_each_environment() -> None:
    assert {file.stem for file in LOCKS.glob("*.txt")} == set(ENVIRONMENTS)
    used = {lock.format(world) for _, lock in install.ENVIRONMENTS.values() for world in install.WORLDS}
    assert used == set(ENVIRONMENTS)


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_a_lock_has_names_and_versions_alone(name: str) -> None:
    lines = (LOCKS / f"{name}.txt").read_text().splitlines()
    assert [line for line in lines if not PIN.fullmatch(line)] == []
    assert lines == sorted(lines, key=str.lower)


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_a_lock_has_what_its_groups_ask_for(name: str) -> None:
    wanted = {
        re.split(r"[\[=><!; ]", asked)[0].lower() for group in ENVIRONMENTS[name].groups for asked in asked_by(group)
    }
    assert wanted | set(ENVIRONMENTS[name].files) <= set(pins(name))


def asked_by(group: str) -> Iterator[str]:
    for one in GROUPS[group]:
        if isinstance(one, str):
            yield one
        else:
            yield from asked_by(one["include-group"])


@pytest.mark.parametrize("name", GPU_LOCKS)
def test_a_lock_for_a_gpu_can_compile_kernels_and_read_pictures(name: str) -> None:
    """Without triton no engine starts, without torchvision no vision model."""
    found = pins(name)
    for package in ("torch", "torchvision", "triton"):
        markers = [Requirement(pin).marker for pin in found[package]]
        assert any(marker is None or marker.evaluate(LINUX) for marker in markers)
    cuda = "12" if name.endswith("cu12") else "13"
    assert any(package.endswith(f"-cu{cuda}") for package in found), "torch's own build of CUDA"


@pytest.mark.parametrize("name", [name for name, lock in ENVIRONMENTS.items() if lock.cpu])
def test_a_lock_for_a_cpu_brings_no_cuda(name: str) -> None:
    assert [package for package in pins(name) if re.match(r"nvidia|triton|torchvision", package)] == []


def test_services_install_what_they_use_and_no_more() -> None:
    assert "torch" not in pins("orchestrator").keys() | pins("chat").keys() | pins("selfie").keys()
    assert "diffusers" in pins("image-cpu")
    assert "vllm" not in pins("chat")
    assert not {"pytest", "mypy"} & pins("app-cpu").keys()


@pytest.mark.parametrize(
    ("drivers", "world"),
    [
        (["580.65.06"], "cu13"),
        (["590"], "cu13"),
        (["575.57"], "cu12"),
        (["525.60.13"], "cu12"),
        (["590.1", "570.2"], "cu12"),
    ],
)
def test_a_driver_says_which_cuda(drivers: list[str], world: str) -> None:
    assert install.world_of(drivers) == world


@pytest.mark.parametrize("drivers", [["470.82"], [], ["N/A"]])
def test_a_driver_that_is_too_old_ends_the_installing_with_the_reason(drivers: list[str]) -> None:
    with pytest.raises(SystemExit, match="CUDA 12 wants 525 or later"):
        install.world_of(drivers)


def test_who_sets_the_accelerator_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATOR", "cu12")
    assert install.world() == "cu12"
    monkeypatch.setenv("ACCELERATOR", "abacus")
    with pytest.raises(SystemExit, match="ACCELERATOR=abacus is none of"):
        install.world()


def test_what_is_unknown_is_not_installed() -> None:
    with pytest.raises(SystemExit, match="nothing called console"):
        install.main(["console"])


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
