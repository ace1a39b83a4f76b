"""Where models run: the CPU, or one GPU that this process has to itself."""

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from pipeline.telemetry.events.devices import RunsOnCpu

Numbers = list[float]
CPU_MAX = Path("/sys/fs/cgroup/cpu.max")
"""``QUOTA PERIOD`` of this process's control group (kernel.org, cgroup v2)."""


class Device(ABC):
    """One device, and how to bring a batch there and its numbers back."""

    def __init__(self, name: str) -> None:
        self.place = torch.device(name)

    asynchronous: bool
    """Whether this process can do something else while the device computes, at no cost."""
    exact: bool
    """Whether a row has the same bits at each place in blocks of one shape, and of those that an architecture names."""

    @abstractmethod
    def stage(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Bring tensors from the CPU's memory here; they may still be on their way."""

    @abstractmethod
    def start(self, compute: Callable[[], Tensor], *, beside: bool) -> Callable[[], Numbers]:
        """Begin to compute one number for each row; the call returned waits for them.

        ``beside``: while this process does something else; otherwise it may as well be done when it waits.
        """

    @abstractmethod
    def free_cache(self) -> None:
        """Give back the memory that is kept for later."""


class Cpu(Device):
    """The cores that this process was given."""

    asynchronous, exact = False, True

    def __init__(self, name: str = "cpu") -> None:
        super().__init__(name)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="compute")

    def stage(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """They are there."""
        return tuple(tensors)

    def start(self, compute: Callable[[], Tensor], *, beside: bool) -> Callable[[], Numbers]:
        """On a thread, whose kernels let other threads run."""
        if beside:
            return self._thread.submit(lambda: compute().tolist()).result
        return lambda: compute().tolist()

    def free_cache(self) -> None:
        """The CPU's allocator keeps nothing."""


class Gpu(Device):
    """One CUDA device: copies travel beside the kernels, from and to pinned memory."""

    asynchronous, exact = True, False  # kernels may divide a sum differently from one tile to the next

    def __init__(self, name: str) -> None:
        super().__init__(name)
        torch.cuda.set_device(self.place)
        self._copies = torch.cuda.Stream(self.place)

    def stage(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Behind other copies, beside the kernels."""
        with torch.cuda.stream(self._copies):
            return tuple(tensor.pin_memory().to(self.place, non_blocking=True) for tensor in tensors)

    def start(self, compute: Callable[[], Tensor], *, beside: bool) -> Callable[[], Numbers]:  # noqa: ARG002
        """Kernels are queued here and run there; waiting does not spin."""
        kernels = torch.cuda.current_stream(self.place)
        kernels.wait_stream(self._copies)
        numbers = compute()
        here = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
        here.copy_(numbers, non_blocking=True)
        done = torch.cuda.Event(blocking=True)
        done.record(kernels)

        def wait() -> Numbers:
            done.synchronize()
            found: Numbers = here.tolist()
            return found

        return wait

    def free_cache(self) -> None:
        """To the driver, from where other processes may take it."""
        torch.cuda.empty_cache()


def cores_given() -> int:
    """How many cores this process may use: those it may run on, or what its control group allows if that is less."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = CPU_MAX.read_text().split()
        return max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no such file, or no limit: "max"
        return cores


def open_device(name: str) -> Device:
    """The device of this name: ``cpu`` or ``cuda:N``; the CPU where torch cannot use a GPU, and it says so."""
    if name == "cpu":
        return Cpu()
    if not torch.cuda.is_available():
        RunsOnCpu(wanted=name, reason=f"this torch ({torch.__version__}) finds no CUDA device").emit()
        return Cpu()
    return Gpu(name)
