"""What the figures were taken on, in words that name no host."""

import os
import platform
import sys
import sysconfig
import time
from importlib.metadata import version
from pathlib import Path


def facts() -> dict[str, str]:
    packages = ("aiohttp", "uvicorn", "uvloop", "httptools", "fastapi", "httpx")
    optimised = "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or "")
    return {
        "CPU": _cpu_model(),
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.machine()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}, "
        + ("profile-guided build" if optimised else "not a profile-guided build"),
        "10 million turns of an empty loop": f"{_loop_seconds():.2f} s",
        "load before the run": load(),
        "packages": ", ".join(f"{name} {version(name)}" for name in packages),
    }


def load() -> str:
    """Processes that ran or wanted to in the last minute; above the cores, others' work is in the figures."""
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if sys.platform == "linux" and info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _loop_seconds() -> float:
    started = time.perf_counter()
    for _ in range(10_000_000):
        pass
    return time.perf_counter() - started
