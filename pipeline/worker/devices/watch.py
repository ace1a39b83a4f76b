"""The watch over a scoring worker's device and its host: a worker whose device is sick ends, with nothing lost.

Such a worker stops claiming, gives back what it holds, and exits with 75: drain this node. Others go on. A worker whose
memory or disk is nearly full is not ready until there is room again.
"""

import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Protocol

import psutil

from pipeline.service.periodic import Periodic
from pipeline.settings import Settings
from pipeline.telemetry.events.devices import DeviceChanged, NoGpuFound
from pipeline.worker.devices.health import Canary, Health, State, Verdict
from pipeline.worker.devices.nvml import Found, Gpu, GpuLost, NoDriver, Reading, find

LOOK_S = 1.0
FULL = 0.95
EX_DRAIN = 75
"""EX_TEMPFAIL of sysexits.h: an operator should look at this node before it works again."""


def chosen(settings: Settings) -> Found | None:
    """Returns the GPU that a scoring worker is to run on; None for the CPU (the log says why).

    NoDriver if the settings name a GPU that cannot be had.
    """
    if settings.device == "cpu":
        return None
    try:
        found = find()
    except NoDriver as reason:
        if settings.device != "auto":
            raise
        NoGpuFound(reason=str(reason)).emit()
        return None
    if settings.device == "auto":
        return found[0] if found else None
    index = int(settings.device.removeprefix("cuda:"))
    if index >= len(found):
        raise NoDriver(f"there is no {settings.device}: the driver knows {len(found)} devices")
    return found[index]


class Children(Protocol):
    """What the processes that compute on the device have reported."""

    @property
    def settled_batches(self) -> int:
        """How many batches they have settled."""

    @property
    def canary(self) -> Canary:
        """What their canaries have found."""


class Worker(Protocol):
    """The worker that computes on the device."""

    @property
    def children(self) -> Children:
        """What its children have reported."""

    def report_health(self, health: dict[str, Any]) -> None:
        """Shows the device's health to operators."""


class DeviceWatch(Periodic):
    """Looks once a second. It has a thread of its own: a call to a sick device may never return."""

    def __init__(self, worker: Worker, found: Found | None, drain: Callable[[Verdict], None]) -> None:
        """``drain`` is called once, when the device is found to be sick."""
        super().__init__("device-watch", LOOK_S)
        self._worker = worker
        self._found = found
        self._drain = drain
        self._gpu: Gpu | None = None
        self._health = Health()
        self._settled = 0
        self._state = State.HEALTHY
        self.full = ""
        """What is nearly full, in words; empty if there is room."""

    def turn(self) -> None:
        """Looks once, and drains the worker if the device is sick."""
        verdict = self.look()
        if verdict.state is State.SICK:
            self._drain(verdict)
            self.stop()

    def child_died(self) -> None:
        """Notes that a child of this worker has died."""
        self._health.child_died(time.monotonic())

    def look(self) -> Verdict:
        """Looks once, and reports what it has found to operators."""
        reading, lost = self._read()
        children = self._worker.children
        if children.settled_batches != self._settled:
            self._settled = children.settled_batches
            self._health.settled()
        canary = children.canary
        verdict = self._health.judge(reading, canary, time.monotonic(), lost=lost)
        if verdict.state is not self._state:
            DeviceChanged(state=str(verdict.state), reasons=verdict.reasons).emit()
            self._state = verdict.state
        self.full = ", ".join(_full(reading))
        self._worker.report_health(self._report(reading, verdict, canary.took_s))
        return verdict

    def _read(self) -> tuple[Reading | None, str]:
        if self._found is None:
            return None, ""
        try:
            self._gpu = self._gpu or Gpu(self._found.index)
            return self._gpu.read(), ""
        except (GpuLost, NoDriver) as error:
            return None, str(error)

    def _report(self, reading: Reading | None, verdict: Verdict, canary_s: float | None) -> dict[str, Any]:
        name = {"name": self._found.name, "uuid": self._found.uuid} if self._found else {"name": None, "uuid": None}
        return {
            "state": str(verdict.state),
            "reasons": list(verdict.reasons),
            **name,
            **asdict(reading or Reading()),
            "xids": list(self._health.xids),
            "canary_ms": round(1000 * canary_s, 3) if canary_s is not None else None,
            "full": self.full,
        }


def _full(reading: Reading | None) -> list[str]:
    folder = tempfile.gettempdir()
    disk = shutil.disk_usage(folder)
    shares = {
        "the host's memory": psutil.virtual_memory().percent / 100,
        f"the disk of {folder}": disk.used / disk.total,
    }
    if reading and reading.memory_used is not None and reading.memory_total:
        shares["the device's memory"] = reading.memory_used / reading.memory_total
    return [f"{name} is {share:.0%} full" for name, share in shares.items() if share > FULL]
