"""What is measured, and how a peer's processes are run.

A ``System`` is up between ``with`` and its end, alone: nothing else that is measured runs at that time. It is sent to
in one or more ways: as a stream (the producer has all requests at hand), or closed (so many clients, each of which
waits for its result before it sends again).
"""

import json
import select
import subprocess
import tempfile
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, ClassVar, Protocol, Self

from bench.peers.environments import computing, environment, variables, versions
from bench.processes import Cpu, Running, start_store
from bench.rows import Row
from pipeline.settings import REPOSITORY, Durability

ANSWER_S = 240.0
STOP_S = 30.0


class System(Protocol):
    """Scoreline or a peer."""

    @property
    def name(self) -> str:
        """As ``--only`` has it."""

    @property
    def streams(self) -> tuple[str, ...]:
        """Its streams."""

    @property
    def curves(self) -> Mapping[str, str]:
        """Its closed ways, and what the plot calls them."""

    def prepare(self) -> dict[str, str]:
        """Installs it, and says which versions it has."""

    def __enter__(self) -> Self:
        """Starts it."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops it."""

    def send(self, way: str, row: Row, count: int, parallel: int) -> None:
        """Sends so many requests, reads every result, and adds a round to the row."""


class Peer(Running):
    """A peer that is a few processes in an environment of its own."""

    name: ClassVar[str]
    requirements: ClassVar[tuple[str, ...]]
    shown: ClassVar[tuple[str, ...]]
    streams: ClassVar[tuple[str, ...]] = ()
    curves: ClassVar[Mapping[str, str]]

    def __init__(self, durability: Durability) -> None:
        self._durability = durability
        self._processes: list[subprocess.Popen[bytes]] = []

    def prepare(self) -> dict[str, str]:
        """Makes the environment."""
        self._python = environment(self.name, [*computing(), *self.requirements])
        return versions(self._python, self.shown)

    def start(self) -> None:
        """Starts the processes in a folder of their own."""
        self._folder = tempfile.TemporaryDirectory(prefix="scoreline-peer-")
        self._log = Path(self._folder.name) / "peer.log"
        with self._log.open("ab") as log:
            self.launch(Path(self._folder.name), log)

    @abstractmethod
    def launch(self, folder: Path, log: IO[bytes]) -> None:
        """Starts the processes, a broker first."""

    def send(self, way: str, row: Row, count: int, parallel: int) -> None:
        """Lets the producer send; CPU is that of all processes."""
        cpu = Cpu(self.pids)
        seconds, latencies_ms = self.exchange(way, count, parallel)
        row.add(count, seconds, cpu.seconds(), latencies_ms)

    def exchange(self, way: str, count: int, parallel: int) -> tuple[float, list[float]]:
        """Has the process started last, a ``bench.peers.inside.sender``, send; returns seconds and latencies (ms)."""
        sender = self._processes[-1]
        assert sender.stdin is not None
        assert sender.stdout is not None
        sender.stdin.write(json.dumps({"way": way, "count": count, "parallel": parallel}).encode() + b"\n")
        sender.stdin.flush()
        ready, _, _ = select.select([sender.stdout], [], [], ANSWER_S)
        line = sender.stdout.readline() if ready else b""
        if not line:
            raise RuntimeError(f"{self.name}: no answer; its log ends:\n{self.log_end()}")
        answer: dict[str, Any] = json.loads(line)
        return answer["seconds"], answer["latencies_ms"]

    @property
    def pids(self) -> list[int]:
        """The process trees to count."""
        return [process.pid for process in self._processes]

    def log_end(self) -> str:
        """Returns the last lines that its processes wrote."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-12:])

    def start_broker(self, folder: Path) -> str:
        """Starts a Valkey server like Scoreline's own, at the same durability; returns its URL."""
        process, url = start_store(folder, self._durability)
        self._processes.append(process)
        return url

    def run(self, log: IO[bytes], *arguments: str, sends: bool = False, **more: str) -> None:
        """Starts one more process in the peer's environment; ``sends``: it is the producer, which reads stdin."""
        pipe = subprocess.PIPE if sends else None
        self._processes.append(
            subprocess.Popen(
                [str(self._python), "-m", *arguments],
                env=variables(**more),
                cwd=REPOSITORY,
                stdin=pipe,
                stdout=pipe or log,
                stderr=log,
            )
        )

    def stop(self) -> None:
        """Stops them, the producer first."""
        while self._processes:
            process = self._processes.pop()
            if process.stdin is not None:
                process.stdin.close()  # a producer ends by itself, and takes down what it started
            else:
                process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()
        self._folder.cleanup()
