"""mosec 0.9.8: an HTTP server in Rust that batches requests for a Python worker.

Set up after https://mosecorg.github.io/mosec/reference/interface.html : one worker process with dynamic batching, 64 at
most, and 10 ms to wait for more, its default. One stage does all three: a stage more is a process and a hop more. JSON
in and out, in the shape of Scoreline's API, and the load comes from the same generator as for ``http-64``.

What it does not do that Scoreline does: keep anything. A request lives as long as its connection, so that it cannot be
submitted now and polled for later. A worker or server that is killed takes with it what it held: the client sees an
error or a timeout, and sends again or does not. No retries, no states, no cache, no idempotency. What is more than its
capacity is refused (429).
"""

import itertools
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, ClassVar

import uvloop

from bench.http_load import load
from bench.peers.inside.inputs import applications
from bench.peers.peer import Peer
from pipeline.stack.programs import choose_ports

START_S = 60.0


class Mosec(Peer):
    """The server with its worker; the load generator is in this process."""

    name = "mosec"
    requirements: ClassVar[tuple[str, ...]] = ("mosec==0.9.8",)
    shown: ClassVar[tuple[str, ...]] = ("mosec",)
    curves: ClassVar[Mapping[str, str]] = {"http": "mosec, HTTP"}

    def launch(self, folder: Path, log: IO[bytes]) -> None:
        """Starts the server; it is up when it answers."""
        self._port = choose_ports(api=None, flower=None, health=0).store
        self._rows = applications()
        options = (
            "--address",
            "127.0.0.1",
            "--port",
            str(self._port),
            "--timeout",
            "30000",
            "--path",
            str(folder / "ipc"),
        )
        self.run(log, "bench.peers.inside.mosec_server", *options)
        until = time.monotonic() + START_S
        while True:
            try:
                self.exchange("http", 1, 1)
                return
            except (OSError, RuntimeError):
                if time.monotonic() > until:
                    raise RuntimeError(f"mosec does not answer; its log ends:\n{self.log_end()}") from None
                time.sleep(0.2)

    def exchange(self, way: str, count: int, parallel: int) -> tuple[float, list[float]]:  # noqa: ARG002
        """One request each, over so many connections."""
        bodies = ({"features": features} for features in itertools.islice(self._rows, count))
        latencies_ms, seconds = uvloop.run(load(self._port, "/inference", bodies, parallel))
        return seconds, latencies_ms
