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

from pipeline.contracts.stages import Stage
from pipeline.service.entry_points import clone_environment, command
from pipeline.settings import Durability, read_settings
from pipeline.stack.local import LocalStack
from pipeline.stack.programs import choose_ports
from pipeline.stack.store_server import server_command


def cpu_s(process: psutil.Process) -> float:
    """CPU seconds of a process; none of one that has just gone, as the store's fork does that writes its file anew."""
    try:
        return sum(process.cpu_times()[:2])
    except psutil.NoSuchProcess:
        return 0.0


class Cpu:
    """CPU seconds of process trees and of this process, between ``start`` and ``stop``."""

    def __init__(self, roots: list[int]) -> None:
        self._roots = [psutil.Process(pid) for pid in roots] + [psutil.Process()]
        self._began = self._total()

    def _total(self) -> float:
        tree = {process.pid: process for root in self._roots for process in [root, *root.children(recursive=True)]}
        return sum(cpu_s(process) for process in tree.values())

    def seconds(self) -> float:
        """CPU seconds used since this was made."""
        return self._total() - self._began


def measured_stack(durability: Durability) -> LocalStack:
    """The stack that is measured: as ``scoreline up`` starts it, nothing switched off.

    ``tests/integration/test_nothing_weaker.py`` looks at this very one.
    """
    return LocalStack(read_settings(), durability=durability)


def start_store(folder: Path, durability: Durability) -> tuple[subprocess.Popen[bytes], str]:
    """A server with its data in ``folder``, once it answers: the process, and its URL."""
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


class Baseline(ABC):
    """What to compare with: a server of its own (the same one, at the same durability), a process a stage."""

    def __init__(self, durability: Durability) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="scoreline-bench-")
        self._durability = durability
        self._processes: list[subprocess.Popen[bytes]] = []
        self.url = ""

    @abstractmethod
    def _program(self, stage: Stage) -> tuple[list[str], dict[str, str]]:
        """The command that runs a stage, and what it finds in its environment beside what is there."""

    def __enter__(self) -> Self:
        store, self.url = start_store(Path(self._folder.name), self._durability)
        self._processes.append(store)
        log = (Path(self._folder.name) / "stages.log").open("wb")
        for stage in Stage:
            start, more = self._program(stage)
            environment = clone_environment({**os.environ, **more})
            self._processes.append(subprocess.Popen(start, env=environment, stdout=log, stderr=log))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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

    def __enter__(self) -> Self:
        super().__enter__()
        os.environ["BENCH_CHAIN_URL"] = self.url  # for this process, which sends
        return self

    def _program(self, stage: Stage) -> tuple[list[str], dict[str, str]]:
        start = command("celery", "-A", "bench.chain_app", "worker", "-P", "prefork", "-c", "1")
        return (
            [*start, "-Q", stage, "-n", f"{stage}@%h", "--without-mingle", "--without-gossip"],
            {"BENCH_CHAIN_URL": self.url, "BENCH_CHAIN_STAGE": stage},
        )
