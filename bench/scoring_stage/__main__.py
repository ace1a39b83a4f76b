"""``python -m bench.scoring_stage``: the command line of ``scoreline bench --scoring``."""

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table

import bench.scoring_stage
from bench.scoring_stage.backlog import LONGEST, MODEL
from bench.scoring_stage.figures import device_kind
from bench.scoring_stage.latency import measure_latency
from bench.scoring_stage.poison import measure_poison
from bench.scoring_stage.slow_worker import measure_slow_worker
from bench.scoring_stage.throughput import measure_throughput


def main() -> None:
    """Measures and reports; exits 1 if a goal is not met."""
    parser = argparse.ArgumentParser(prog="scoreline bench --scoring", description=bench.scoring_stage.__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=20, help="of each way in each round")
    parser.add_argument("--backlog", type=int, default=50_000)
    parser.add_argument("--longest", type=int, default=LONGEST, help="tokens of the longest text with a backlog")
    parser.add_argument("--only", choices=["stage", "latency", "poison", "slow-worker"])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--no-goals", action="store_true", help="exit 0 even if a goal is not met")
    options = parser.parse_args()
    with Console(stderr=True).status("starting") as status:
        parts: dict[str, Callable[[], dict[str, Any]]] = {
            "stage": lambda: measure_throughput(
                options.rounds, options.seconds, options.backlog, options.longest, status.update
            ),
            "latency": lambda: measure_latency(options.rounds, options.seconds),
            "poison": lambda: measure_poison(options.rounds, options.seconds),
            "slow-worker": lambda: measure_slow_worker(options.seconds),
        }
        document: dict[str, Any] = {"model": MODEL, "device": device_kind()}
        for name, part in parts.items():
            if options.only in (None, name):
                status.update(name)
                document[name] = part()
    if options.json:
        print(json.dumps(document, indent=1))
    else:
        _show(document)
    sections = [section for section in document.values() if isinstance(section, dict)]
    goals = [each for section in sections for each in section.values() if isinstance(each, dict) and "met" in each]
    if not options.no_goals and not all(goal["met"] for goal in goals):
        sys.exit(1)


def _show(document: dict[str, Any]) -> None:
    console = Console()
    if "stage" in document:
        stage = document["stage"]
        table = Table("way", "rows/s", "range", title=f"{MODEL} on {document['device']}, {stage['backlog']} waiting")
        for name, rate in stage["rows_per_s"].items():
            low, high = stage["range"][name]
            table.add_row(name, f"{rate:.1f}", f"{low:.1f}-{high:.1f}")
        console.print(table)
    table = Table("figure", "found", "goal", "")
    for section in document.values():
        for name, each in section.items() if isinstance(section, dict) else ():
            if isinstance(each, dict) and "met" in each:
                verdict = "[green]met[/]" if each["met"] else "[red]not met[/]"
                table.add_row(name, f"{each['found']:g}", each["goal"], verdict)
    console.print(table)


if __name__ == "__main__":
    main()
