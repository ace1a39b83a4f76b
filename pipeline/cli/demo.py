"""``scoreline demo``: every held-out loan application through the real path, on a stack of its own."""

import asyncio
import statistics
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from pipeline.cli.console import BAD_OUTCOME, AsJson, console, errors, print_json
from pipeline.cli.extras import require
from pipeline.cli.services import checked_durability
from pipeline.samples.credit_data import Application, read_applications, split
from pipeline.settings import read_settings

MODEL = "credit-default"
CONNECTIONS = 32
AUC_GOAL = 0.82


@dataclass
class _Run:
    """What the producer saw."""

    outcomes: list[bool] = field(default_factory=list)
    statuses: list[dict[str, Any]] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)
    seconds: float = 0.0


def demo(durability: Annotated[str, typer.Option(help="process | disk")] = "process", as_json: AsJson = False) -> None:
    """Score real loan applications end to end on a stack of its own, and check the result against the outcomes."""
    require("local")
    from pipeline.stack.local import LocalStack

    applications = split(read_applications()).held_out
    with errors.status("starting the store, three workers, a sweeper, the API and Flower"):
        stack = LocalStack(read_settings(), durability=checked_durability(durability))
    with stack:
        run = asyncio.run(_send(stack.api_url, applications))
        document = _document(run, stack.durability)
        if as_json:
            print_json(document)
        else:
            _show(document, run)
    ended = document["succeeded"] + document["invalid"] + document["dead"]
    if ended != len(applications) or document["auc"] is None or document["auc"] < AUC_GOAL:
        sys.exit(BAD_OUTCOME)


async def _send(api_url: str, applications: list[Application]) -> _Run:
    import aiohttp

    run = _Run()
    waiting = iter(applications)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True) as progress:
        task = progress.add_task("applications", total=len(applications))

        async def producer(http: aiohttp.ClientSession) -> None:
            for application in waiting:
                began = time.monotonic()
                body = {"model": MODEL, "features": application.features}
                async with http.post("/v1/scores", json=body) as accepted:
                    accepted.raise_for_status()
                    status, location = await accepted.json(), accepted.headers["Location"]
                while status["finished_at"] is None:
                    async with http.get(location, params={"wait": 30}) as answer:
                        answer.raise_for_status()
                        status = await answer.json()
                run.latencies_ms.append((time.monotonic() - began) * 1000)
                run.outcomes.append(application.defaulted)
                run.statuses.append(status)
                progress.advance(task)

        async with aiohttp.ClientSession(api_url, timeout=aiohttp.ClientTimeout(40)) as http:
            began = time.monotonic()
            async with asyncio.TaskGroup() as group:
                for _ in range(CONNECTIONS):
                    group.create_task(producer(http))
            run.seconds = time.monotonic() - began
    return run


def _document(run: _Run, durability: str) -> dict[str, Any]:
    from sklearn.metrics import roc_auc_score

    states = Counter(status["state"] for status in run.statuses)
    scored = [
        (outcome, status["result"]["score"])
        for outcome, status in zip(run.outcomes, run.statuses, strict=True)
        if status["state"] == "succeeded"
    ]
    outcomes = [outcome for outcome, _ in scored]
    auc = float(roc_auc_score(outcomes, [score for _, score in scored])) if len(set(outcomes)) == 2 else None
    percentiles = statistics.quantiles(run.latencies_ms, n=100)
    return {
        "requests": len(run.statuses),
        "succeeded": states["succeeded"],
        "invalid": states["invalid"],
        "dead": states["dead"],
        "cached": sum(status["cached"] for status in run.statuses),
        "auc": None if auc is None else round(auc, 4),
        "requests_per_s": round(len(run.statuses) / run.seconds, 1),
        "latency_ms": {"p50": round(percentiles[49], 1), "p99": round(percentiles[98], 1)},
        "seconds": round(run.seconds, 2),
        "durability": durability,
    }


def _show(document: dict[str, Any], run: _Run) -> None:
    table = Table(show_header=False, title=f"{document['requests']} held-out loan applications, scored by {MODEL}")
    latency = document["latency_ms"]
    for name, value in (
        ("requests", document["requests"]),
        ("succeeded", document["succeeded"]),
        ("invalid", document["invalid"]),
        ("dead", document["dead"]),
        ("requests/s", f"{document['requests_per_s']}  ({CONNECTIONS} connections, 2 calls each)"),
        ("latency p50 / p99", f"{latency['p50']} ms / {latency['p99']} ms"),
        ("AUC against the outcomes", f"{document['auc']}  (goal: {AUC_GOAL})"),
        ("durability", document["durability"]),
    ):
        table.add_row(name, str(value))
    console.print(table)
    bands = Table("decision", "applications", "of them went bad")
    for decision in ("approve", "review", "decline"):
        outcomes = [
            outcome
            for outcome, status in zip(run.outcomes, run.statuses, strict=True)
            if status["result"] and status["result"]["decision"] == decision
        ]
        share = f"{sum(outcomes)} ({100 * sum(outcomes) / len(outcomes):.0f} %)" if outcomes else "-"
        bands.add_row(decision, str(len(outcomes)), share)
    console.print(bands)
    console.print(
        "Look around:\n"
        "  make up                                       this stack until Ctrl-C, with Flower and the API's docs\n"
        "  scoreline stats | models | doctor             what waits, who works, what is wrong\n"
        "  scoreline submit FILE.csv --model MODEL       score rows of your own",
        highlight=False,
        soft_wrap=True,
    )
