"""``python -m chaos``, or ``scoreline chaos``: faults under load, and what became of every request."""

import argparse
import asyncio
import contextlib
import json
import random
import statistics
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import structlog
from redis.exceptions import RedisError
from rich.console import Console
from rich.table import Table

from chaos.checker import Commit, Expected, Verdict, check
from chaos.faults import Victims
from chaos.load import Producer
from pipeline.contracts.ids import to_text
from pipeline.contracts.stages import Stage
from pipeline.ledger import keys
from pipeline.ledger.records import unpack_entry
from pipeline.model_store import ModelStore
from pipeline.settings import read_settings
from pipeline.stack.local import LocalStack
from tasks.child import load_stage

SETTLE_S = 60.0
PAUSE_S = (0.5, 2.5)
"""Between two faults: at least, and at most."""


async def strike(victims: Victims, names: list[str], seconds: float, rng: random.Random) -> dict[str, list[float]]:
    """Faults in turn, in seeded order, with seeded pauses; how long each took to be overcome."""
    took: dict[str, list[float]] = defaultdict(list)
    ends_at = time.monotonic() + seconds
    deck: list[str] = []
    await asyncio.sleep(1)
    while time.monotonic() < ends_at:
        if not deck:
            deck = rng.sample(names, len(names))
        name = deck.pop()
        with contextlib.suppress(RedisError):
            took[name].append(await victims.strike(name))
        await asyncio.sleep(rng.uniform(*PAUSE_S))
    return took


async def commits(victims: Victims) -> list[Commit]:
    """Every terminal commit, from the ledger's own log."""
    found = []
    for _, entry in await victims.store.xrange(keys.EVENTS):
        if entry.pop(b"what") == b"ended":
            for request_id, blob in entry.items():
                record = unpack_entry(blob)
                found.append(Commit(to_text(request_id), record.header.generation, record.ties.key[:16]))
    return found


async def leftovers(victims: Victims) -> list[str]:
    """What stands in the ledger after everything should have ended."""
    left = [f"{await victims.store.zcard(keys.OPEN)} unfinished"] if await victims.store.zcard(keys.OPEN) else []
    for kind in ("q:", "c:", "m:", "e:", "i:", "o:", "joined", "fanout", "later", "attempts"):
        left += [key.decode(errors="replace") async for key in victims.store.scan_iter(f"{keys.TAG}{kind}*")]
    return left


def offline(producer: Producer, stack: LocalStack) -> dict[bytes, Expected]:
    """What the stages make of the same inputs, run here, without any of the rest."""
    store = ModelStore(stack.settings.model_store)
    artifact = store.load("credit-default", "1")
    edges = [band["below"] for band in artifact.manifest["bands"]]
    sent = [one for one in producer.sent if one.model == "credit-default" and one.read]
    bodies: list[Any] = [one.features for one in sent]
    for stage in Stage:
        service = load_stage(stage, stack.settings)
        bodies = [answer.body for answer in service.perform(artifact.ref, bodies)] if bodies else []  # type: ignore[union-attr]
    return {
        one.key: Expected(result, any(edge is not None and abs(result["score"] - edge) <= 1e-6 for edge in edges))
        for one, result in zip(sent, bodies, strict=True)
    }


async def prove(stack: LocalStack, names: list[str], seconds: float, rate: float, seed: int) -> dict[str, Any]:
    """One run: load, faults, settling, check."""
    rng = random.Random(seed)
    producer, victims = Producer(stack.api_url, rate, random.Random(seed + 1)), Victims(stack, rng)
    await victims.store.set(keys.AUDIT, "1")
    _, took = await asyncio.gather(
        producer.run(seconds, victims.poison), strike(victims, names, max(1.0, seconds - 10), rng)
    )
    await producer.settle(SETTLE_S)
    verdict = check(producer.sent, await commits(victims), offline(producer, stack), await leftovers(victims))
    return _document(verdict, took, producer, stack, seconds, seed)


def _document(
    verdict: Verdict, took: dict[str, list[float]], producer: Producer, stack: LocalStack, seconds: float, seed: int
) -> dict[str, Any]:
    again = sum(one.read[-1]["attempts"] > 1 for one in producer.sent if one.read and not one.poison)
    return {
        "accepted": verdict.accepted,
        "refused": verdict.refused,
        "unknown": verdict.unknown,
        "ended": verdict.ended,
        "lost": verdict.lost,
        "doubled": verdict.doubled,
        "stuck": verdict.stuck,
        "wrong": verdict.wrong,
        "seed": seed,
        "seconds": seconds,
        "durability": stack.durability,
        "longest_call_s": round(producer.longest_call_s, 3),
        "started_more_than_once": again,
        "findings": list(verdict.findings[:100]),
        "faults": {
            name: {
                "count": len(times),
                "recovery_s": {
                    "p50": round(statistics.median(times), 3),
                    "p99": round(sorted(times)[max(0, -(-99 * len(times) // 100) - 1)], 3),
                    "max": round(max(times), 3),
                },
            }
            for name, times in sorted(took.items())
        },
    }


def show(document: dict[str, Any]) -> None:
    """The document as a table."""
    console = Console(width=110)
    table = Table("fault", "count", "recovery p50 s", "p99 s", "max s")
    for name, fault in document["faults"].items():
        recovery = fault["recovery_s"]
        table.add_row(name, str(fault["count"]), *(f"{recovery[part]:.2f}" for part in ("p50", "p99", "max")))
    console.print(table)
    counts = "  ".join(f"{name} {document[name]}" for name in ("accepted", "refused", "unknown", "ended"))
    console.print(counts)
    bad = [name for name in ("lost", "doubled", "stuck", "wrong") if document[name]]
    console.print("  ".join(f"{name} {document[name]}" for name in ("lost", "doubled", "stuck", "wrong")))
    for finding in document["findings"]:
        console.print(f"[red]{finding}[/]")
    console.print("[red]not proven[/]" if bad else "every accepted request ended once, with the right answer")


def main() -> None:
    """Parse the command line, run, report; exit 1 if anything was lost, doubled, stuck or wrong."""
    parser = argparse.ArgumentParser(prog="scoreline chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--faults", default="", help="comma-separated; without it all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=100, help="requests per second offered")
    parser.add_argument("--durability", choices=["process", "disk"], default="process")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there")
    arguments = parser.parse_args()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    every = list(Victims.NAMES)
    names = arguments.faults.split(",") if arguments.faults else every
    unknown = sorted(set(names) - set(every))
    if unknown:
        parser.error(f"no fault {', '.join(unknown)}; there are {', '.join(every)}")
    stack = LocalStack(
        read_settings(), durability=arguments.durability, chaos_model=True, scoring_workers=2, other_workers=2
    )
    with stack:
        document = asyncio.run(prove(stack, names, arguments.seconds, arguments.rate, arguments.seed))
    if arguments.json:
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")
    show(document)
    sys.exit(any(document[name] for name in ("lost", "doubled", "stuck", "wrong")))


if __name__ == "__main__":
    main()
