"""Errors after which a process can use its GPU no more: CUDA answers every later call with the same error."""

import re

from core.errors import Unavailable

RETRY_AFTER = 10.0  # seconds, about what a worker takes to start

_STICKY = re.compile(
    r"illegal memory access|device-side assert|unspecified launch failure|misaligned address|illegal instruction"
    r"|invalid program counter|hardware stack error|launch timed out and was terminated|(?:global|shared) address space"
    r"|uncorrectable (?:ECC|NVLink) error|contained error|CUDA (?:error|failure[^:]*): unknown error|GPU is lost"
    r"|fallen off the bus|device\(s\) is/are busy or unavailable|driver shutting down|context is destroyed"
    r"|cudaError(?:IllegalAddress|Assert|LaunchFailure|LaunchTimeout|MisalignedAddress|IllegalInstruction|InvalidPc"
    r"|HardwareStackError|InvalidAddressSpace|ECCUncorrectable|ContextIsDestroyed)\b"
    r"|(?:CUBLAS|CUDNN|CUSOLVER|CUSPARSE)_STATUS_EXECUTION_FAILED",
    re.IGNORECASE,
)
_MOST_CAUSES = 8


class DeviceLost(Unavailable):
    """What callers are told, and what ends the thread that met it: the process must end, and be started anew."""

    def __init__(self) -> None:
        text = "The device failed; this worker starts anew."
        super().__init__(text, code="device_lost", retry_after=RETRY_AFTER)


def lost_by(exc: BaseException) -> DeviceLost | None:
    """Whether the device is gone, by what PyTorch, ONNX Runtime and CUDA's libraries say; or a cause of `exc` did."""
    seen: BaseException | None = exc
    for _ in range(_MOST_CAUSES):
        if seen is None:
            return None
        if isinstance(seen, DeviceLost):
            return seen
        if isinstance(seen, RuntimeError | OSError) and _STICKY.search(str(seen)):
            return DeviceLost()
        seen = seen.__cause__ or seen.__context__
    return None
