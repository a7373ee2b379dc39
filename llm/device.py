"""What the engines run on, measured: a GPU's memory by nvidia-smi, else the host's; and the engine's torch."""

import asyncio
import contextlib
import os
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

GB = 1024**3
SMI_SECONDS = 5.0
CGROUP = Path("/sys/fs/cgroup")
_GPU = "--query-gpu=name,memory.total,memory.free"
_PROCESSES = "--query-compute-apps=pid,used_memory"


@dataclass(frozen=True)
class Memory:
    """Bytes. `total` and `available` are the device's; `kind` is cuda or cpu."""

    kind: str
    name: str | None
    total: int
    available: int


async def memory() -> Memory:
    """Of the GPU that engines see first; of the host where there is none, or where the GPU has none of its own."""
    lines = await _smi(_GPU)
    host = psutil.virtual_memory()
    total, available = host.total, host.available
    limit, used = _container()
    if limit is not None:
        total = min(total, limit)
        available = min(available, max(0, limit - used))
    if not lines or len(lines[0]) != 3:
        return Memory("cpu", None, total, available)
    name, all_of_it, free = lines[0]
    if all_of_it.isdigit() and free.isdigit():
        return Memory("cuda", name, int(all_of_it) << 20, int(free) << 20)
    return Memory("cuda", name, total, available)


async def gpu_bytes(leader: int) -> int | None:
    """GPU memory that this process and its children hold; None where the driver does not show them, as in a container
    that has process numbers of its own."""
    lines = await _smi(_PROCESSES)
    family = {str(process.pid) for process in await asyncio.to_thread(_family, leader)}
    found = [int(line[1]) << 20 for line in lines if len(line) == 2 and line[0] in family and line[1].isdigit()]
    return sum(found) if found else None


async def _smi(query: str) -> list[list[str]]:
    """The rows it answers with; none where there is no GPU, or it does not answer."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
    process = await asyncio.create_subprocess_exec(
        program,
        *(query, "--format=csv,noheader,nounits", *([f"--id={first}"] if first else [])),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(SMI_SECONDS):
            out, _ = await process.communicate()
    except TimeoutError:
        return []
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    lines = out.decode(errors="replace").splitlines() if process.returncode == 0 else []
    return [[part.strip() for part in line.split(",")] for line in lines]


def _container(folder: Path = CGROUP) -> tuple[int | None, int]:
    """The memory this container may use, where it is bounded, and what it uses, less files that could be dropped."""
    with contextlib.suppress(OSError, ValueError):
        limit = int((folder / "memory.max").read_text())  # "max" where there is no bound
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return limit, int((folder / "memory.current").read_text()) - int(stat.get("inactive_file", 0))
    return None, 0


async def host_bytes(groups: Iterable[int]) -> int:
    """Host memory that the processes of these groups hold, pages that they share counted once."""
    return await asyncio.to_thread(_host_bytes, list(groups))


def _host_bytes(leaders: list[int]) -> int:
    total = 0
    for leader in leaders:
        for process in _family(leader):
            with contextlib.suppress(psutil.Error):
                total += _memory_of(process)
    return total


def _family(leader: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        first = psutil.Process(leader)
        return [first, *first.children(recursive=True)]
    return []


def _memory_of(process: psutil.Process) -> int:
    """Its share of physical memory (PSS), where the system tells it; else its resident set."""
    if sys.platform == "linux":
        with contextlib.suppress(psutil.AccessDenied):
            return int(process.memory_full_info().pss)
    return int(process.memory_info().rss)


def oom_kills() -> int:
    """How often the system has killed a process for want of memory, here or on the whole host; 0 where unknown."""
    for file, name in (("/sys/fs/cgroup/memory.events", "oom_kill"), ("/proc/vmstat", "oom_kill")):
        with contextlib.suppress(OSError, ValueError):
            counts = dict(line.split() for line in Path(file).read_text().splitlines())
            if name in counts:
                return int(counts[name])
    return 0


def torch_version(python: Path) -> str | None:
    """Of the engine's environment, read from its package's folder; None where there is none."""
    places = [python.parent.parent / "lib", python.parent.parent / "Lib"]
    found = [info.name for place in places for info in place.glob("**/site-packages/torch-*.dist-info")]
    return found[0].removeprefix("torch-").removesuffix(".dist-info") if found else None
