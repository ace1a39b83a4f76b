"""What torch and CUDA raise, as failures of ``pipeline.contracts.failures``.

By class and error code; by message only where torch raises a bare RuntimeError, and nowhere else.
"""

import torch
from torch import distributed

from pipeline.contracts.failures import Collective, CudaFault, DeviceLost, OutOfMemory, StageFailure

# Codes of cudaError_t (CUDA runtime API, "Data types used by CUDA Runtime").
NO_MEMORY = 2
HARMLESS = frozenset({1, 9, 98, 209, 701, 801})
"""Errors of one launch (bad arguments, no such kernel, too many registers): the context stays usable."""
LOST = frozenset({3, 4, 46, 100, 101, 214, 220, 226, 802, 999})
"""The device is gone, busy with a fault, or has uncorrectable errors of memory or links."""

_COLLECTIVES = ("DistBackendError", "DistNetworkError", "DistStoreError")
_CLASSES: tuple[tuple[type[BaseException], type[StageFailure]], ...] = (
    (MemoryError, OutOfMemory),
    (torch.OutOfMemoryError, OutOfMemory),
    *((getattr(distributed, name), Collective) for name in _COLLECTIVES if distributed.is_available()),
)
_TEXTS: tuple[tuple[str, type[StageFailure]], ...] = (
    ("DefaultCPUAllocator: can't allocate memory", OutOfMemory),
    ("not enough memory: you tried to allocate", OutOfMemory),
    ("std::bad_alloc", OutOfMemory),
    ("could not create a primitive", OutOfMemory),  # oneDNN, for its scratch memory and its kernels' code
    ("CUBLAS_STATUS_ALLOC_FAILED", OutOfMemory),
    ("CUDNN_STATUS_ALLOC_FAILED", OutOfMemory),
    ("CUDNN_STATUS_EXECUTION_FAILED", CudaFault),
    ("CUDA error:", CudaFault),
)
"""The first that a bare RuntimeError contains."""


def kind_of(error: BaseException) -> type[StageFailure] | None:
    """Returns the class of failure that ``error`` means; None if it says nothing about the device."""
    if isinstance(error, torch.AcceleratorError):
        code = getattr(error, "error_code", None)
        if code == NO_MEMORY:
            return OutOfMemory
        return None if code in HARMLESS else DeviceLost if code in LOST else CudaFault
    if type(error) is RuntimeError:
        return next((kind for text, kind in _TEXTS if text in str(error)), None)
    return next((kind for cause, kind in _CLASSES if isinstance(error, cause)), None)
