"""Reads from the NVIDIA driver, through NVML, what it knows of the GPUs of this machine.

What a device or driver does not support is None. Names and codes: NVIDIA, "NVML API Reference Guide".
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pynvml

THROTTLE_REASONS = {
    pynvml.nvmlClocksEventReasonSwPowerCap: "power cap",
    pynvml.nvmlClocksEventReasonHwSlowdown: "hardware slowdown",
    pynvml.nvmlClocksEventReasonSwThermalSlowdown: "thermal, by software",
    pynvml.nvmlClocksEventReasonHwThermalSlowdown: "thermal, by hardware",
    pynvml.nvmlClocksEventReasonHwPowerBrakeSlowdown: "power brake",
}
RECOVERY_ACTIONS = {
    pynvml.NVML_GPU_RECOVERY_ACTION_NONE: "none",
    pynvml.NVML_GPU_RECOVERY_ACTION_GPU_RESET: "reset the GPU",
    pynvml.NVML_GPU_RECOVERY_ACTION_NODE_REBOOT: "reboot the node",
    pynvml.NVML_GPU_RECOVERY_ACTION_DRAIN_P2P: "drain peer-to-peer traffic",
    pynvml.NVML_GPU_RECOVERY_ACTION_DRAIN_AND_RESET: "drain and reset",
    pynvml.NVML_GPU_RECOVERY_ACTION_RECOVER_IMEX_DOMAIN: "recover the IMEX domain",
    pynvml.NVML_GPU_RECOVERY_ACTION_BUS_RESET: "reset the bus",
    pynvml.NVML_GPU_RECOVERY_ACTION_SYSTEM_REBOOT: "reboot the system",
}


class NoDriver(Exception):
    """This machine has no NVIDIA driver, or the driver does not answer."""


class GpuLost(Exception):
    """The driver cannot reach the device any more."""


@dataclass(frozen=True, slots=True)
class Remapped:
    """Rows of memory that were replaced. ``pending``: more will be at the next reset; ``failed``: no spare is left."""

    correctable: int
    uncorrectable: int
    pending: bool
    failed: bool


@dataclass(frozen=True, slots=True)
class Reading:
    """What one look at a GPU has shown. Memory in bytes, utilisation in percent, temperature in degrees Celsius.

    ``ecc_errors``: how many could not be corrected since the driver was loaded. ``xids``: the errors that the driver
    reported since the last look (NVIDIA, "XID Errors").
    """

    memory_used: int | None = None
    memory_total: int | None = None
    utilisation: int | None = None
    temperature: int | None = None
    throttled: tuple[str, ...] = ()
    ecc_errors: int | None = None
    remapped: Remapped | None = None
    recovery_action: str | None = None
    xids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """A GPU of this machine."""

    index: int
    uuid: str
    name: str


def find() -> list[Found]:
    """Lists the GPUs of this machine; raises NoDriver."""
    _init()
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return [
            Found(index, pynvml.nvmlDeviceGetUUID(handle), pynvml.nvmlDeviceGetName(handle))
            for index, handle in enumerate(handles)
        ]
    except pynvml.NVMLError as error:
        raise NoDriver(f"the NVIDIA driver does not list its devices: {error}") from error


class Gpu:
    """One GPU, for any number of looks. The errors that the driver reports are collected between looks."""

    def __init__(self, index: int) -> None:
        """Raises NoDriver or GpuLost."""
        _init()
        try:
            self._handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        except pynvml.NVMLError as error:
            raise GpuLost(f"GPU {index}: {error}") from error
        self._events: Any = None
        with suppress(pynvml.NVMLError):  # not every device reports them
            events = pynvml.nvmlEventSetCreate()
            pynvml.nvmlDeviceRegisterEvents(self._handle, pynvml.nvmlEventTypeXidCriticalError, events)
            self._events = events

    def read(self) -> Reading:
        """Takes one look; raises GpuLost."""
        memory = self._ask(pynvml.nvmlDeviceGetMemoryInfo)
        utilisation = self._ask(pynvml.nvmlDeviceGetUtilizationRates)
        throttled = self._ask(pynvml.nvmlDeviceGetCurrentClocksEventReasons) or 0
        remapped = self._ask(pynvml.nvmlDeviceGetRemappedRows)
        return Reading(
            memory_used=memory and memory.used,
            memory_total=memory and memory.total,
            utilisation=utilisation and utilisation.gpu,
            temperature=self._ask(pynvml.nvmlDeviceGetTemperature, pynvml.NVML_TEMPERATURE_GPU),
            throttled=tuple(reason for bit, reason in THROTTLE_REASONS.items() if throttled & bit),
            ecc_errors=self._ask(
                pynvml.nvmlDeviceGetTotalEccErrors,
                pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
                pynvml.NVML_VOLATILE_ECC,
            ),
            remapped=remapped and Remapped(remapped[0], remapped[1], bool(remapped[2]), bool(remapped[3])),
            recovery_action=self._recovery_action(),
            xids=tuple(self._xids()),
        )

    def _ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(self._handle, *arguments)
        except (pynvml.NVMLError_GpuIsLost, pynvml.NVMLError_ResetRequired) as error:
            raise GpuLost(str(error)) from error
        except pynvml.NVMLError:
            return None

    def _recovery_action(self) -> str | None:
        values = self._ask(pynvml.nvmlDeviceGetFieldValues, [pynvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION])
        if not values or values[0].nvmlReturn != pynvml.NVML_SUCCESS:
            return None
        code = values[0].value.uiVal
        return RECOVERY_ACTIONS.get(code, f"unknown ({code})")

    def _xids(self) -> list[int]:
        found: list[int] = []
        while self._events is not None:
            try:
                event = pynvml.nvmlEventSetWait_v2(self._events, 0)
            except pynvml.NVMLError:
                break  # none has come
            found.append(event.eventData)
        return found


def _init() -> None:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise NoDriver(f"no NVIDIA driver: {error}") from error
