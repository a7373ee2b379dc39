"""What the device has free, measured; and which exceptions mean that it ran out."""

from __future__ import annotations

import gc

import psutil
import torch

_CPU_SAYS = ("can't allocate memory", "not enough memory")


def free(device: torch.device) -> int:
    """Bytes that could still be allocated, what the allocator keeps for later included."""
    if device.type != "cuda":
        return int(psutil.virtual_memory().available)
    kept: int = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    unclaimed: int = torch.cuda.mem_get_info(device)[0]
    return unclaimed + kept


def release(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def release_everything() -> None:
    """Give the system back what no model uses any more."""
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak(device: torch.device) -> int:
    """Most bytes since reset_peak beyond those in use now; 0 where the device does not count."""
    if device.type != "cuda":
        return 0
    return int(torch.cuda.max_memory_allocated(device) - torch.cuda.memory_allocated(device))


def name(device: torch.device) -> str:
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"{device.type} {torch.get_num_threads()} threads"


def is_out_of_memory(exc: BaseException) -> bool:
    """Also for the CPU's allocator, which raises a plain RuntimeError."""
    if isinstance(exc, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(exc, RuntimeError) and any(text in str(exc) for text in _CPU_SAYS)
