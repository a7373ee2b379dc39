"""`make lock`: pin what pyproject.toml asks for, by name and version alone, in the two constraints files."""

import os
import re
import subprocess
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UV = str(ROOT / ".venv" / "bin" / "uv")
GROUPS = ("up", "image", "image-4bit", "vision", "llm", "small-model", "tiny-model", "test")
CUDA_ONLY = re.compile(r"(nvidia|cuda)-|triton")


def main() -> None:
    asked = [word for group in GROUPS for word in ("--group", group)]
    quiet = ("--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links")
    lines = _uv(
        "pip", "compile", "--quiet", "--universal", "--python-version", "3.11", *quiet, *asked, "pyproject.toml"
    )
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    _write("constraints.txt", [*lines, *groups["files-only"], *groups["bootstrap"]])
    _write("constraints-vllm.txt", _uv("pip", "freeze", "--python", str(ROOT / ".venv-vllm" / "bin" / "python")))


def _write(name: str, lines: list[str]) -> None:
    kept = {line for line in lines if "==" in line and not CUDA_ONLY.match(line) and not line.startswith("torch==")}
    (ROOT / name).write_text("\n".join(sorted({*kept, "torch==2.13.0"}, key=str.lower)) + "\n")


def _uv(*arguments: str) -> list[str]:
    environment = dict(os.environ)
    if "PIP_FIND_LINKS" in environment:
        environment["UV_FIND_LINKS"] = ",".join(environment["PIP_FIND_LINKS"].split())
    out = subprocess.run((UV, *arguments), cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
    return out.stdout.splitlines()


if __name__ == "__main__":
    main()
