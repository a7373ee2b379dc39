"""What the engines run on, measured: a GPU's memory by nvidia-smi, else the host's; and the engine's torch."""

import asyncio
import contextlib
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

GB = 1024**3
SMI_SECONDS = 5.0
_QUERY = "--query-gpu=name,memory.total,memory.used,memory.free"


@dataclass(frozen=True)
class Memory:
    """Bytes. `total` and `available` are the device's; `kind` is cuda or cpu."""

    kind: str
    name: str | None
    total: int
    available: int


async def memory() -> Memory:
    """Of the first GPU; of the host where there is none."""
    line = await _smi()
    if line is not None:
        name, total, _, free = (part.strip() for part in line.split(","))
        return Memory("cuda", name, int(total) << 20, int(free) << 20)
    host = psutil.virtual_memory()
    return Memory("cpu", None, min(host.total, _container_limit() or host.total), host.available)


async def _smi() -> str | None:
    """The first GPU's line; None where there is no GPU, or it does not answer."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    process = await asyncio.create_subprocess_exec(
        program,
        *(_QUERY, "--format=csv,noheader,nounits"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(SMI_SECONDS):
            out, _ = await process.communicate()
    except TimeoutError:
        return None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    lines = out.decode(errors="replace").splitlines()
    return lines[0] if process.returncode == 0 and lines and lines[0].count(",") == 3 else None


def _container_limit() -> int | None:
    """The memory this container may use, where it is bounded."""
    with contextlib.suppress(OSError, ValueError):
        return int(Path("/sys/fs/cgroup/memory.max").read_text())  # "max" where there is no bound
    return None


async def host_bytes(groups: Iterable[int]) -> int:
    """Host memory that the processes of these groups hold, pages that they share counted once."""
    return await asyncio.to_thread(_host_bytes, list(groups))


def _host_bytes(leaders: list[int]) -> int:
    total = 0
    for leader in leaders:
        with contextlib.suppress(psutil.Error):
            family = psutil.Process(leader)
            for process in (family, *family.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    total += _held(process)
    return total


def _held(process: psutil.Process) -> int:
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
