"""The programs of a local stack: what runs, on which ports, and how each is probed."""

import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.contracts.stages import Stage
from pipeline.service.entry_points import EntryPoint, command
from pipeline.settings import Durability
from pipeline.stack.store_server import server_command

NICE = ["nice", "-n", "5"]
"""What computes, and what only watches, yields to what has to answer at once. Where workers keep all cores busy, or a
dozen processes start, calls would otherwise wait in the API's socket for seconds before it reads them."""


@dataclass(frozen=True, slots=True)
class Program:
    """One supervised program. ``group`` orders the drain: services stop before the store.

    ``livez``: the URL that is probed. ``stop_s``: how long it may take to stop. ``serves``: whether requests need it
    (the first of each service); the others are started once these can take work. ``environment``: on top of what all
    programs of the stack have.
    """

    name: str
    command: list[str]
    group: str = "services"
    livez: str | None = None
    stop_s: int = 15
    serves: bool = True
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ports:
    """A free port for everything that listens."""

    store: int
    api: int
    flower: int
    health: list[int]


def choose_ports(*, api: int | None, flower: int | None, health: int) -> Ports:
    """Finds free loopback ports by binding them all at once; OSError if a wanted one is taken."""
    wanted = [0, api or 0, flower or 0, *[0] * health]
    sockets = []
    try:
        for port in wanted:
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("127.0.0.1", port))
            sockets.append(sock)
        store, chosen_api, chosen_flower, *rest = [sock.getsockname()[1] for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()
    return Ports(store, chosen_api, chosen_flower, rest)


def names_of(kind: str, copies: int) -> list[str]:
    """Returns the names of the programs of one kind."""
    return [kind] if copies == 1 else [f"{kind}-{copy}" for copy in range(1, copies + 1)]


def programs(
    ports: Ports,
    data_dir: Path,
    durability: Durability,
    *,
    scoring_workers: int,
    other_workers: int,
    sweepers: int,
    store_options: Sequence[str] = (),
) -> list[Program]:
    """Returns everything that a local stack runs; ``other_workers``: for each of the other stages."""
    store = [*server_command(ports.store, data_dir, durability), *store_options]
    health = iter(ports.health)

    def watched(kind: str, copies: int, start: Sequence[str]) -> Iterator[Program]:
        for copy, name in enumerate(names_of(kind, copies)):
            port = next(health)
            whole = [*start, "--health-port", str(port)]
            yield Program(name, whole, livez=f"http://127.0.0.1:{port}/livez", serves=copy == 0)

    workers: list[Program] = []
    for stage in Stage:
        copies = scoring_workers if stage is Stage.SCORING else other_workers
        workers += watched(stage, copies, [*NICE, *command(EntryPoint.WORKER, stage)])
    return [
        Program("store", store, group="store", stop_s=30),
        *workers,
        *watched("sweeper", sweepers, command(EntryPoint.SWEEPER)),
        Program(
            "api",
            command(EntryPoint.API, "--port", str(ports.api)),
            livez=f"http://127.0.0.1:{ports.api}/livez",
            stop_s=40,
        ),
        Program(
            "flower",
            [
                *NICE, *command(EntryPoint.FLOWER),
                "--address=127.0.0.1", f"--port={ports.flower}", "--logging=warning",
                "--tasks_columns=name,args,state,result,received,runtime,worker",
            ],
            livez=f"http://127.0.0.1:{ports.flower}/healthcheck",
            serves=False,
        ),
    ]  # fmt: skip
