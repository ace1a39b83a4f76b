"""For tests only: a stand-in for NVIDIA's library that answers what a file says. It replaces the library in pynvml.

    {"gpus": [{"name": "Stub", "memory": [used, total], "utilisation": 40, "temperature": 50, "throttle": 0, "ecc": 0,
               "remapped": [0, 0, 0, 0], "recovery_action": 0, "xids": [79], "lost": false}]}

What is left out is not supported. Each of ``xids`` is reported once, in order; the file may change at any time.
"""

import ctypes
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pynvml


class StubNvml:
    """Has the functions that pynvml calls, by their names in the library."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._reported: dict[int, int] = {}
        self._watched: set[int] = set()

    @classmethod
    def take_the_place(cls, folder: Path) -> None:
        """Installs a stub in this process if the folder of failpoints has a file ``nvml.json``."""
        if (folder / "nvml.json").exists():
            cls(folder / "nvml.json").install()

    def install(self) -> None:
        """Replaces the library in this process."""
        pynvml.nvmlLib = self
        pynvml._nvmlGetFunctionPointer_cache.clear()

    def __getattr__(self, name: str) -> Callable[..., int]:
        simple: dict[str, Callable[[dict[str, Any], Any], bool]] = {
            "nvmlDeviceGetTemperature": lambda gpu, out: _set(out[1], gpu.get("temperature")),
            "nvmlDeviceGetCurrentClocksEventReasons": lambda gpu, out: _set(out[0], gpu.get("throttle")),
            "nvmlDeviceGetTotalEccErrors": lambda gpu, out: _set(out[2], gpu.get("ecc")),
            "nvmlDeviceGetMemoryInfo": _memory,
            "nvmlDeviceGetUtilizationRates": _utilisation,
            "nvmlDeviceGetRemappedRows": _remapped,
            "nvmlDeviceGetFieldValues": _recovery_action,
            "nvmlDeviceGetUUID": lambda gpu, out: _set(out[0], gpu.get("uuid", "GPU-stub").encode()),
            "nvmlDeviceGetName": lambda gpu, out: _set(out[0], gpu.get("name", "Stub").encode()),
        }
        if name not in simple:
            raise AttributeError(name)

        def call(handle: Any, *out: Any) -> int:
            gpu = self._gpus()[_index(handle)]
            if gpu.get("lost"):
                return int(pynvml.NVML_ERROR_GPU_IS_LOST)
            return pynvml.NVML_SUCCESS if simple[name](gpu, out) else int(pynvml.NVML_ERROR_NOT_SUPPORTED)

        return call

    def _gpus(self) -> list[dict[str, Any]]:
        gpus: list[dict[str, Any]] = json.loads(self._file.read_text())["gpus"]
        return gpus

    def nvmlInitWithFlags(self, flags: int) -> int:  # noqa: ARG002, N802
        """Finds a driver if there is a file."""
        return int(pynvml.NVML_SUCCESS if self._file.exists() else pynvml.NVML_ERROR_DRIVER_NOT_LOADED)

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:  # noqa: N802
        """Counts the GPUs that the file names."""
        count._obj.value = len(self._gpus())
        return int(pynvml.NVML_SUCCESS)

    def nvmlDeviceGetHandleByIndex_v2(self, index: Any, handle: Any) -> int:  # noqa: N802
        """Gives the handle of a GPU: its index plus one."""
        if index.value >= len(self._gpus()):
            return int(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        number = ctypes.c_void_p(index.value + 1)
        ctypes.memmove(ctypes.addressof(handle._obj), ctypes.addressof(number), ctypes.sizeof(number))
        return int(pynvml.NVML_SUCCESS)

    def nvmlEventSetCreate(self, events: Any) -> int:  # noqa: ARG002, N802
        """Gives the one set of events that there is."""
        return int(pynvml.NVML_SUCCESS)

    def nvmlDeviceRegisterEvents(self, handle: Any, types: Any, events: Any) -> int:  # noqa: ARG002, N802
        """Reports the device's errors from now on."""
        self._watched.add(_index(handle))
        return int(pynvml.NVML_SUCCESS)

    def nvmlEventSetWait_v2(self, events: Any, data: Any, timeout_ms: Any) -> int:  # noqa: ARG002, N802
        """Gives the next error that has not been reported."""
        gpus = self._gpus()
        for index in self._watched:
            xids, reported = gpus[index].get("xids", []), self._reported.get(index, 0)
            if reported < len(xids):
                self._reported[index] = reported + 1
                data._obj.eventData = xids[reported]
                return int(pynvml.NVML_SUCCESS)
        return int(pynvml.NVML_ERROR_TIMEOUT)


def _index(handle: Any) -> int:
    return int(ctypes.cast(handle, ctypes.c_void_p).value or 0) - 1


def _set(out: Any, value: Any) -> bool:
    if value is None:
        return False
    getattr(out, "_obj", out).value = value
    return True


def _memory(gpu: dict[str, Any], out: Any) -> bool:
    if "memory" not in gpu:
        return False
    info = out[0]._obj
    info.used, info.total = gpu["memory"]
    info.free = info.total - info.used
    return True


def _utilisation(gpu: dict[str, Any], out: Any) -> bool:
    if "utilisation" not in gpu:
        return False
    out[0]._obj.gpu = gpu["utilisation"]
    return True


def _remapped(gpu: dict[str, Any], out: Any) -> bool:
    return "remapped" in gpu and all(_set(place, value) for place, value in zip(out, gpu["remapped"], strict=True))


def _recovery_action(gpu: dict[str, Any], out: Any) -> bool:
    value = out[1]._obj[0]
    if "recovery_action" not in gpu:
        value.nvmlReturn = pynvml.NVML_ERROR_NOT_SUPPORTED
        return True
    value.nvmlReturn, value.value.uiVal = pynvml.NVML_SUCCESS, gpu["recovery_action"]
    return True
