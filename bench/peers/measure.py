"""Rounds. In each, every system is started, measured and stopped, one after the other, in turning order."""

import os
import platform
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from bench.peers.peer import System
from bench.peers.points import Point, document, sized
from bench.rows import Row

CLIENTS = (1, 4, 16, 64, 256)
STREAM_S = 3.0
CLOSED_S = 2.0
PILOT = 500
MOST = 30_000


def visit(system: System, rows: dict[Point, Row], told: Callable[[str], None]) -> None:
    """One round of one system: every way, at every number of clients. A pilot before each says how many to send."""
    told(f"{system.name}: starting")
    with system:
        for way in system.streams:
            told(f"{system.name}: {way}")
            system.send(way, Row(), PILOT // 10, PILOT // 10)  # its first requests find it still starting
            pilot = Row()
            system.send(way, pilot, PILOT, PILOT)
            count = sized(pilot, STREAM_S, PILOT, MOST)
            system.send(way, rows.setdefault(Point(system.name, way, None), Row()), count, count)
        for way in system.curves:
            for clients in CLIENTS:
                told(f"{system.name}: {way}, {clients} clients")
                pilot, least = Row(), max(40, 4 * clients)
                system.send(way, pilot, least, clients)
                count = sized(pilot, CLOSED_S, least, MOST)
                system.send(way, rows.setdefault(Point(system.name, way, clients), Row()), count, clients)


def measure(
    systems: Sequence[System], rounds: int, durability: str, told: Callable[[str], None]
) -> tuple[dict[str, Any], list[str]]:
    """The document that ``--json`` writes, and what went wrong. A system that fails is left out from then on."""
    failures: list[str] = []
    up: list[System] = []
    versions: dict[str, dict[str, str]] = {}
    for system in systems:
        told(f"{system.name}: installing, if it is not")
        try:
            versions[system.name] = system.prepare()
            up.append(system)
        except Exception as error:  # noqa: BLE001 - whatever it is, the others are measured
            failures.append(f"{system.name} could not be installed: {error}")
    rows: dict[Point, Row] = {}
    for number in range(rounds):
        for system in list(up) if number % 2 == 0 else list(reversed(up)):
            try:
                visit(system, rows, lambda what: told(f"round {number + 1} of {rounds}: {what}"))  # noqa: B023
            except Exception as error:  # noqa: BLE001 - as above
                traceback.print_exc(file=sys.stderr)
                failures.append(f"{system.name} failed in round {number + 1}: {error}")
                up.remove(system)
    return {
        "points": document(dict(sorted(rows.items(), key=lambda item: _place(systems, item[0])))),
        "labels": {system.name: dict(system.curves) for system in systems},
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, Linux {platform.release()}",
        "python": platform.python_version(),
        "versions": versions,
        "durability": durability,
        "rounds": rounds,
    }, failures


def _place(systems: Sequence[System], point: Point) -> tuple[int, int, str, int]:
    """Systems in their own order; of each, streams before curves."""
    order = [system.name for system in systems].index(point.system)
    ways = [*systems[order].streams, *systems[order].curves]
    return order, point.clients is not None, str(ways.index(point.way)), point.clients or 0
