"""What the benchmark starts: Scoreline's stack and what it is compared with; and how it counts the CPU of all."""

import os
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
import redis

from bench.plain_tasks import plain_worker
from pipeline.contracts.stages import Stage
from pipeline.service.entry_points import clone_environment
from pipeline.settings import Durability, read_settings
from pipeline.stack.local import LocalStack
from pipeline.stack.programs import choose_ports
from pipeline.stack.store_server import server_command


def cpu_s(process: psutil.Process) -> float:
    """Returns CPU seconds of a process; 0 if it has just gone, as the fork does that rewrites the store's file."""
    try:
        return sum(process.cpu_times()[:2])
    except psutil.NoSuchProcess:
        return 0.0


class Cpu:
    """CPU seconds of process trees and of this process, since this was created."""

    def __init__(self, roots: list[int]) -> None:
        self._roots = [psutil.Process(pid) for pid in roots] + [psutil.Process()]
        self._began = self._total()

    def _total(self) -> float:
        tree = {process.pid: process for root in self._roots for process in [root, *root.children(recursive=True)]}
        return sum(cpu_s(process) for process in tree.values())

    def seconds(self) -> float:
        """Returns CPU seconds used since this was created."""
        return self._total() - self._began


def measured_stack(durability: Durability) -> LocalStack:
    """Returns the stack that is measured: as ``scoreline up`` starts it, nothing switched off.

    ``tests/integration/test_nothing_weaker.py`` checks this very stack.
    """
    return LocalStack(read_settings(), durability=durability)


def start_store(folder: Path, durability: Durability) -> tuple[subprocess.Popen[bytes], str]:
    """Starts a store with its data in ``folder``, and waits until it answers; returns its process and its URL."""
    port = choose_ports(api=None, flower=None, health=0).store
    log = (folder / "store.log").open("wb")
    process = subprocess.Popen(server_command(port, folder, durability), stdout=log, stderr=log)
    url = f"redis://127.0.0.1:{port}/0"
    store = redis.Redis.from_url(url)
    while True:
        try:
            store.ping()
            return process, url
        except redis.ConnectionError:
            time.sleep(0.05)


class Running(ABC):
    """Processes that run from ``with`` to its end, and are stopped as well if one of them cannot be started."""

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @abstractmethod
    def start(self) -> None:
        """Starts them."""

    @abstractmethod
    def stop(self) -> None:
        """Stops whatever of them runs."""


class Baseline(Running):
    """What to compare with: a store of its own (the same program at the same durability), a process a stage."""

    def __init__(self, durability: Durability) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="scoreline-bench-")
        self._durability = durability
        self._processes: list[subprocess.Popen[bytes]] = []
        self.url = ""

    @abstractmethod
    def _program(self, stage: Stage) -> tuple[list[str], dict[str, str]]:
        """Returns the command that runs a stage, and what is added to its environment."""

    def start(self) -> None:
        """Starts the store, then the stages."""
        store, self.url = start_store(Path(self._folder.name), self._durability)
        self._processes.append(store)
        log = (Path(self._folder.name) / "stages.log").open("wb")
        for stage in Stage:
            start, more = self._program(stage)
            environment = clone_environment({**os.environ, **more})
            self._processes.append(subprocess.Popen(start, env=environment, stdout=log, stderr=log))

    def stop(self) -> None:
        """Stops the stages, then the store."""
        for process in reversed(self._processes):
            process.terminate()
            process.wait()
        self._folder.cleanup()

    @property
    def pids(self) -> list[int]:
        """The process trees to count."""
        return [process.pid for process in self._processes]


class Chain(Baseline):
    """The plain Celery chain: a worker for each task."""

    def start(self) -> None:
        """Starts them."""
        super().start()
        os.environ["BENCH_CHAIN_URL"] = self.url  # for this process, which sends

    def _program(self, stage: Stage) -> tuple[list[str], dict[str, str]]:
        return plain_worker("bench.chain_app", stage, stage), {"BENCH_CHAIN_URL": self.url, "BENCH_CHAIN_STAGE": stage}
