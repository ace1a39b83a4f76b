"""What the benchmark starts beside a Scoreline stack, and how it counts the CPU of all processes."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import psutil
import redis

from pipeline.contracts.stages import Stage
from pipeline.settings import Durability
from pipeline.stack.programs import choose_ports
from pipeline.stack.store_server import server_command


class Cpu:
    """CPU seconds of process trees and of this process, between ``start`` and ``stop``."""

    def __init__(self, roots: list[int]) -> None:
        self._roots = [psutil.Process(pid) for pid in roots] + [psutil.Process()]
        self._began = self._total()

    def _total(self) -> float:
        tree = {process.pid: process for root in self._roots for process in [root, *root.children(recursive=True)]}
        return sum(sum(process.cpu_times()[:2]) for process in tree.values())

    def seconds(self) -> float:
        """CPU seconds used since this was made."""
        return self._total() - self._began


def start_server(folder: Path, durability: Durability, log: IO[bytes]) -> tuple[subprocess.Popen[bytes], str]:
    """A server like the stack's, for others to use: its process, and its URL once it answers."""
    port = choose_ports(api=None, flower=None, health=0).store
    url = f"redis://127.0.0.1:{port}/0"
    process = subprocess.Popen(server_command(port, folder, durability), stdout=log, stderr=log)
    store = redis.Redis.from_url(url)
    while True:
        try:
            store.ping()
            return process, url
        except redis.ConnectionError:
            time.sleep(0.05)


class Chain:
    """The plain Celery chain: a server of its own (the same one, at the same durability) and a worker for each task."""

    def __init__(self, durability: Durability) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="scoreline-chain-")
        self._durability = durability
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        folder = Path(self._folder.name)
        log = (folder / "chain.log").open("wb")
        server, os.environ["BENCH_CHAIN_URL"] = start_server(folder, self._durability, log)
        self._processes.append(server)
        for stage in Stage:
            command = [sys.executable, "-m", "celery", "-A", "bench.chain_app", "worker", "-P", "prefork", "-c", "1"]
            self._processes.append(
                subprocess.Popen(
                    [*command, "-Q", stage, "-n", f"{stage}@%h", "--without-mingle", "--without-gossip"],
                    env={**os.environ, "BENCH_CHAIN_STAGE": stage},
                    stdout=log,
                    stderr=log,
                )
            )
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
