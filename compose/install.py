"""Install what is missing: `python3 compose/install.py app|tests|tiny|vllm|orchestrator|chat|image|selfie …`. Standard
library only.

`app` is the whole studio in .venv, `tests` the same with its tests; vLLM's environment is .venv-vllm, since its pins
are its own. The services' names are for pods that run one of them: each gets .venv-NAME with what it uses and no more.
An environment is what its lock names (locks/, made by `make lock`), and is installed again when that changes.

A machine with an NVIDIA GPU gets the locks that fit its driver: CUDA 13 from 580 on, CUDA 12 from 525 on.
ACCELERATOR=cpu, cu12 or cu13 says otherwise.
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
LOCKS, VLLM = ROOT / "locks", ".venv-vllm"
STAMP = ".soundstage-installed"
CUDA_13_DRIVER, CUDA_12_DRIVER = 580, 525
WORLDS = ("cpu", "cu12", "cu13")
# The environment and the lock of each name; `{}` is the world: cpu, cu12 or cu13.
ENVIRONMENTS = {
    "app": (".venv", "app-{}"),
    "tests": (".venv", "tests"),
    "tiny": (".venv", "tests"),
    "vllm": (VLLM, "vllm-{}"),
    "orchestrator": (".venv-orchestrator", "orchestrator"),
    "chat": (".venv-chat", "chat"),
    "image": (".venv-image", "image-{}"),
    "selfie": (".venv-selfie", "selfie"),
    "small-model": (".venv-small-model", "small-model"),
}
COVERED = {"app-cpu": "tests"}  # where the second is installed, so is the first

NO_VLLM = """\
vLLM could not be installed on this machine ({platform}, Python {python}).
The studio runs with any OpenAI-compatible server in its place: LLM_URL=http://127.0.0.1:11434/v1 make up
"""


def main(wanted: list[str]) -> None:
    if sys.version_info < (3, 11):  # noqa: UP036
        sys.exit(f"Soundstage needs Python 3.11 or later; `{sys.executable}` is {sys.version.split()[0]}.")
    if unknown := [name for name in wanted if name not in ENVIRONMENTS]:
        sys.exit(f"There is nothing called {', '.join(unknown)} to install: {', '.join(ENVIRONMENTS)}.")
    here = world()
    for name in wanted:
        if name == "vllm" and os.environ.get("LLM_URL"):
            continue
        folder, lock = ENVIRONMENTS[name]
        try:
            _install(ROOT / folder, lock.format(here), here)
        except subprocess.CalledProcessError:
            if name != "vllm":
                raise
            shutil.rmtree(ROOT / folder, ignore_errors=True)
            sys.exit(NO_VLLM.format(platform=sys.platform, python=sys.version.split()[0]))


def world() -> str:
    """cpu, cu12 or cu13: what this machine's driver can run. Ends where it can run neither."""
    chosen = os.environ.get("ACCELERATOR")
    if chosen:
        if chosen not in WORLDS:
            sys.exit(f"ACCELERATOR={chosen} is none of {', '.join(WORLDS)}.")
        return chosen
    if shutil.which("nvidia-smi") is None:
        return "cpu"
    query = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    try:
        out = subprocess.run(query, capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError) as exc:
        sys.exit(f"nvidia-smi is there and fails ({exc}): mend the driver, or set ACCELERATOR=cpu.")
    return world_of(out.split())


def world_of(drivers: list[str]) -> str:
    """By the oldest of the drivers' versions."""
    numbers = [int(major) for major in (driver.partition(".")[0] for driver in drivers) if major.isdigit()]
    oldest = min(numbers, default=0)
    if oldest >= CUDA_13_DRIVER:
        return "cu13"
    if oldest >= CUDA_12_DRIVER:
        return "cu12"
    found = ", ".join(drivers) or "unknown"
    sys.exit(
        f"The NVIDIA driver is {found}: CUDA 12 wants {CUDA_12_DRIVER} or later, CUDA 13 {CUDA_13_DRIVER} or later."
        " Renew it, or set ACCELERATOR=cpu."
    )


def _install(folder: Path, lock: str, here: str) -> None:
    """What the lock names, unless the stamp says that just this is there."""
    if any(_is_there(folder, each) for each in (lock, COVERED.get(lock)) if each is not None):
        return
    _environment(folder)
    print(f"Installing into {folder.name}: locks/{lock}.txt …", flush=True)
    python, file = str(folder / "bin" / "python"), str(LOCKS / f"{lock}.txt")
    command = ("pip", "install", "--no-config", "--python", python, "--compile-bytecode", "--no-deps", "-r", file)
    sources = list(_sources(lock, here))
    for environment, extra in sources:
        try:
            _run(_uv(folder), *command, *extra, environment=environment)
            break
        except subprocess.CalledProcessError:
            if (environment, extra) == sources[-1]:
                raise
    (folder / STAMP).write_text(f"{lock} {_digest(lock)}\n")


def _is_there(folder: Path, lock: str) -> bool:
    stamp = folder / STAMP
    return stamp.exists() and stamp.read_text() == f"{lock} {_digest(lock)}\n"


def _digest(lock: str) -> str:
    return hashlib.sha256((LOCKS / f"{lock}.txt").read_bytes()).hexdigest()


def _sources(lock: str, here: str) -> Iterator[tuple[dict[str, str], tuple[str, ...]]]:
    """Where packages come from. A CPU's torch: a local wheel that pip is told of, else uv's own knowledge."""
    if here != "cpu" and lock.endswith(here):
        yield {}, ()
        return
    local = os.environ.get("PIP_FIND_LINKS")
    if local:
        yield {"UV_FIND_LINKS": ",".join(local.split())}, ()
    yield {}, ("--torch-backend", "cpu")


def _environment(folder: Path) -> None:
    """A virtual environment with this Python. uv lives in each but vLLM's, which takes another's."""
    if (folder / "bin" / ("python" if folder.name == VLLM else "uv")).exists():
        return
    print(f"Creating {folder.name} …", flush=True)
    if folder.name == VLLM:
        _run(_uv(folder), "venv", "--quiet", "--python", sys.executable, str(folder))
        return
    try:
        _run(sys.executable, "-m", "venv", str(folder))
    except subprocess.CalledProcessError:
        shutil.rmtree(folder, ignore_errors=True)
        sys.exit("Python's venv module does not work here. On Debian and Ubuntu: apt install python3-venv")
    _run(str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", _bootstrap())


def _bootstrap() -> str:
    """uv, as pyproject.toml pins it."""
    import tomllib  # an old Python has none

    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    return str(groups["bootstrap"][0])


def _uv(folder: Path) -> str:
    """The environment's own uv, or that of another one."""
    others = (ROOT / name for name in sorted({name for name, _ in ENVIRONMENTS.values()}))
    for each in (folder, *others):
        if (each / "bin" / "uv").exists():
            return str(each / "bin" / "uv")
    raise SystemExit("There is no uv: install app, or one of the services, first.")


def _run(*command: str, environment: dict[str, str] | None = None) -> None:
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, **(environment or {})})


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except subprocess.CalledProcessError as exc:
        sys.exit(f"Installing failed ({exc.cmd[0]} ended with {exc.returncode}). Is PyPI reachable? Run it again.")
    except KeyboardInterrupt:
        sys.exit(130)
