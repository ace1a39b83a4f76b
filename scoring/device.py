"""Devices that models run on: the CPU, or one GPU that this process has to itself."""

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
    """One device: moves a batch there, and its numbers back."""

    def __init__(self, name: str) -> None:
        self.place = torch.device(name)

    asynchronous: bool
    """Whether this process can do other work while the device computes, at no cost."""
    exact: bool
    """Whether a row has the same bits at every place in blocks of one shape, and in blocks of all shapes it allows."""

    @abstractmethod
    def stage(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Moves tensors from the CPU's memory here; the copies may still be under way."""

    @abstractmethod
    def start(self, compute: Callable[[], Tensor], *, beside: bool) -> Callable[[], Numbers]:
        """Starts to compute one number for each row; returns a call that waits for them.

        ``beside``: computes while this process does other work; otherwise it may compute only when waited for.
        """

    @abstractmethod
    def free_cache(self) -> None:
        """Releases memory that is cached for later."""


class Cpu(Device):
    """The CPU: the cores that this process may use."""

    asynchronous, exact = False, True

    def __init__(self, name: str = "cpu") -> None:
        super().__init__(name)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="compute")

    def stage(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Returns them: they are there already."""
        return tuple(tensors)

    def start(self, compute: Callable[[], Tensor], *, beside: bool) -> Callable[[], Numbers]:
        """Computes on a thread; kernels let other threads run."""
        if beside:
            return self._thread.submit(lambda: compute().tolist()).result
        return lambda: compute().tolist()

    def free_cache(self) -> None:
        """Does nothing: the CPU's allocator caches nothing."""


class Gpu(Device):
    """One CUDA device: copies run beside the kernels, from and to pinned memory."""

    asynchronous, exact = True, False  # kernels may divide a sum differently from one tile to the next

    def __init__(self, name: str) -> None:
        super().__init__(name)
        torch.cuda.set_device(self.place)
        self._copies = torch.cuda.Stream(self.place)

    def stage(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Queues copies after earlier copies, beside the kernels."""
        with torch.cuda.stream(self._copies):
            return tuple(tensor.pin_memory().to(self.place, non_blocking=True) for tensor in tensors)

    def start(self, compute: Callable[[], Tensor], *, beside: bool) -> Callable[[], Numbers]:  # noqa: ARG002
        """Queues the kernels; waiting for them does not spin."""
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
        """Returns cached memory to the driver, so that other processes can use it."""
        torch.cuda.empty_cache()


def cores_given() -> int:
    """Returns how many cores this process may use: by its affinity, or by its control group if that is less."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = CPU_MAX.read_text().split()
        return max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no such file, or no limit: "max"
        return cores


def open_device(name: str) -> Device:
    """Opens the device ``cpu`` or ``cuda:N``; logs a warning and takes the CPU if torch cannot use a GPU."""
    if name == "cpu":
        return Cpu()
    if not torch.cuda.is_available():
        RunsOnCpu(wanted=name, reason=f"this torch ({torch.__version__}) finds no CUDA device").emit()
        return Cpu()
    return Gpu(name)
