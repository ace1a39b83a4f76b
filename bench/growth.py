"""``python -m bench.growth``: what a request costs as things grow; no step may cost worse than linearly.

Three tables: processes a stage, numeric features a request, and bytes of input beside one number. A step is worse than
linear if a request's CPU grows by more than what was made larger. Every input is unique, and every end is read, as in
the row ``submit_many``; a round sends for some seconds and counts until the last end has been read.
"""

import argparse
import itertools
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console
from rich.table import Table

from bench.models import feature_names, write_numbers, write_payload
from bench.processes import Cpu
from bench.rows import Row
from pipeline.client import AsyncScoringClient
from pipeline.settings import read_settings
from pipeline.stack.local import LocalStack

PROCESSES = (1, 2, 4)
FEATURES = (30, 100, 300, 1000, 3000)
BYTES = (16, 256, 4096, 65_536)
TABLES = {"processes": "processes a stage", "features": "features", "bytes": "bytes of input"}
FEW = 30
"""Features of a request where processes are what grows."""
WARM_UP_S = 2.0

Requests = Iterator[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Step:
    """What was measured at one size."""

    size: int
    requests_per_s: float
    cpu_us: float


def worse_than_linear(before: Step, after: Step) -> bool:
    """Returns whether a request's cost grew by more than the size did."""
    return after.cpu_us / before.cpu_us > after.size / before.size


def table_of(steps: Sequence[Step]) -> list[dict[str, Any]]:
    """Returns a row for each step, compared with the one before."""
    first = {"cost_factor": None, "size_factor": None, "worse_than_linear": False}
    compared = [first] + [
        {
            "cost_factor": round(after.cpu_us / before.cpu_us, 2),
            "size_factor": round(after.size / before.size, 2),
            "worse_than_linear": worse_than_linear(before, after),
        }
        for before, after in pairwise(steps)
    ]
    return [
        {"size": step.size, "requests_per_s": round(step.requests_per_s, 1), "cpu_us": round(step.cpu_us, 1), **more}
        for step, more in zip(steps, compared, strict=True)
    ]


class Inputs:
    """Requests without end, no two of them alike."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._rng = random.Random(1)

    def numbers(self, count: int) -> Requests:
        """Yields requests of so many numeric features."""
        names = feature_names(count)
        base = {name: round(self._rng.uniform(0, 1000), 3) for name in names}
        for number in self._numbers:
            yield {"model": f"numbers-{count}", "features": base | {names[0]: number / 1e6}}

    def payload(self, size: int) -> Requests:
        """Yields requests of a number and so many bytes of text."""
        text = "".join(self._rng.choices("abcdefghijklmnopqrstuvwxyz ", k=size))
        for number in self._numbers:
            yield {"model": "payload", "features": {"x": number / 1e6, "text": text}}


def _for_seconds(requests: Requests, seconds: float) -> Requests:
    until = time.perf_counter() + seconds
    return itertools.takewhile(lambda _: time.perf_counter() < until, requests)


async def _send(stack: LocalStack, requests: Requests, seconds: float, row: Row) -> None:
    async with AsyncScoringClient(settings=stack.settings) as client:
        await client.releases()
        cpu, began, count = Cpu(stack.root_pids()), time.perf_counter(), 0
        async for status in client.score_many(_for_seconds(requests, seconds)):
            assert isinstance(status, dict), status
            assert status["state"] == "succeeded", status
            count += 1
        row.add(count, time.perf_counter() - began, cpu.seconds(), [])


def _steps(stack: LocalStack, ways: Mapping[int, Callable[[], Requests]], rounds: int, seconds: float) -> list[Step]:
    """Each size in each round, in turning order."""
    rows = {size: Row() for size in ways}
    for requests in ways.values():
        uvloop.run(_send(stack, requests(), WARM_UP_S, Row()))
    for number in range(rounds):
        for size in list(ways)[:: 1 if number % 2 == 0 else -1]:
            uvloop.run(_send(stack, ways[size](), seconds, rows[size]))
    return [Step(size, statistics.median(row.rates), statistics.median(row.cpu_us)) for size, row in rows.items()]


def measure(tables: Sequence[str], rounds: int, seconds: float) -> dict[str, Any]:
    """Returns the document that ``--json`` prints."""
    inputs = Inputs()
    document: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="scoreline-bench-") as folder:
        write_payload(Path(folder))
        for count in FEATURES:
            write_numbers(Path(folder), count)
        settings = read_settings().model_copy(update={"model_store": Path(folder)})
        if "processes" in tables:
            steps = []
            for copies in PROCESSES:
                with LocalStack(settings, scoring_workers=copies, other_workers=copies) as stack:
                    steps += _steps(stack, {copies: partial(inputs.numbers, FEW)}, rounds, seconds)
            document["processes"] = table_of(steps)
        if rest := [name for name in tables if name != "processes"]:
            with LocalStack(settings) as stack:
                for name in rest:
                    make, sizes = (inputs.numbers, FEATURES) if name == "features" else (inputs.payload, BYTES)
                    ways = {size: partial(make, size) for size in sizes}
                    document[name] = table_of(_steps(stack, ways, rounds, seconds))
    return document


def _show(document: dict[str, Any]) -> None:
    console = Console(width=110)
    for name, rows in document.items():
        table = Table(TABLES[name], "requests/s", "CPU us/request", "cost grew", "size grew", "worse than linear")
        for row in rows:
            factors = ("" if row[key] is None else f"x {row[key]:g}" for key in ("cost_factor", "size_factor"))
            verdict = "[red]yes[/]" if row["worse_than_linear"] else "no" if row["cost_factor"] else ""
            table.add_row(
                f"{row['size']:,}", f"{row['requests_per_s']:,.0f}", f"{row['cpu_us']:,.0f}", *factors, verdict
            )
        console.print(table)


def main() -> None:
    """Measures and reports; exits 1 if a step is worse than linear."""
    parser = argparse.ArgumentParser(prog="python -m bench.growth", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5, help="of sending, each round")
    parser.add_argument("--only", choices=TABLES, help="one table")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    document = measure([options.only] if options.only else list(TABLES), options.rounds, options.seconds)
    if options.json:
        print(json.dumps(document, indent=1))
    else:
        _show(document)
    sys.exit(any(row["worse_than_linear"] for rows in document.values() for row in rows))


if __name__ == "__main__":
    main()
