"""Which errors end the use of a GPU, and which do not."""

import pytest

from core.device.lost import DeviceLost, lost_by

HINT = "\nCUDA kernel errors might be asynchronously reported at some other API call."
LOST = [
    "CUDA error: an illegal memory access was encountered" + HINT,
    "CUDA error: device-side assert triggered" + HINT,
    "CUDA error: unspecified launch failure" + HINT,
    "CUDA error: misaligned address",
    "CUDA error: an illegal instruction was encountered",
    "CUDA error: the launch timed out and was terminated",
    "CUDA error: uncorrectable ECC error encountered",
    "CUDA error: invalid program counter",
    "CUDA error: unknown error",
    "CUDA error: hardware stack error",
    "CUDA error: CUDA-capable device(s) is/are busy or unavailable",
    "CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`",
    "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
    "[ONNXRuntimeError] : 1 : FAIL : CUDA failure 700: an illegal memory access was encountered ; GPU=0",
    "CUDA driver error: device-side assert triggered",
    "NCCL: cudaErrorIllegalAddress",
]
NOT_LOST: list[Exception] = [
    RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA error: invalid argument"),
    RuntimeError("CUDA error: no kernel image is available for execution on the device"),
    RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"),
    ValueError("a prompt about an illegal memory access"),  # what a caller wrote is no word of the device's
    MemoryError(),
]


@pytest.mark.parametrize("says", LOST)
def test_an_error_that_every_later_call_repeats(says: str) -> None:
    lost = lost_by(RuntimeError(says))
    assert isinstance(lost, DeviceLost)
    assert (lost.status, lost.code, lost.retry_after) == (503, "device_lost", 10)


@pytest.mark.parametrize("error", NOT_LOST, ids=str)
def test_an_error_of_one_call(error: Exception) -> None:
    assert lost_by(error) is None


def test_a_library_may_wrap_it_and_causes_may_go_in_circles() -> None:
    wrapped = ValueError("the pipeline failed")
    wrapped.__cause__ = RuntimeError(LOST[0])
    assert lost_by(wrapped)
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert lost_by(first) is None
