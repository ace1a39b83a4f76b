"""``make bench-peers`` (``python -m bench.peers``): Scoreline and its peers, alternating, on one machine.

Each peer is installed in an environment of its own under ``.venv-peers`` when it is first asked for, and set up as its
documentation advises for throughput (see its module). Only one system is up at a time. Every request is one real loan
application; every system runs the very code of the three stages over it.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.peers.batches import CeleryBatches
from bench.peers.environments import CannotInstall, environment, variables
from bench.peers.measure import measure
from bench.peers.mosec_http import Mosec
from bench.peers.peer import System
from bench.peers.ray_serve import RayServe
from bench.peers.scoreline import Scoreline
from bench.peers.tuned_celery import TunedCelery
from pipeline.cli.result_file import result_path, write_whole
from pipeline.settings import REPOSITORY, Durability

SYSTEMS: dict[str, Callable[[Durability], System]] = {
    Scoreline.name: Scoreline,
    TunedCelery.name: TunedCelery,
    CeleryBatches.name: CeleryBatches,
    RayServe.name: RayServe,
    Mosec.name: Mosec,
}
PLOTTING = ("matplotlib==3.11.2",)


def _show(document: dict[str, Any]) -> None:
    table = Table(
        "system", "way", "clients", "requests/s", "range", "CPU us/request", "p50 ms", "p99 ms",
        title=f"durability {document['durability']}, median of {document['rounds']} rounds, {document['machine']}",
    )  # fmt: skip
    for point in document["points"]:
        low, high = point["requests_per_s_range"]
        table.add_row(
            point["system"], point["way"], "stream" if point["clients"] is None else str(point["clients"]),
            f"{point['requests_per_s']:,.0f}", f"{low:,.0f}-{high:,.0f}", f"{point['cpu_us_per_request']:,.0f}",
            *("-" if value is None else f"{value:.1f}" for value in point["latency_ms"].values()),
        )  # fmt: skip
    console = Console(width=120)
    console.print(table)
    for system, versions in document["versions"].items():
        console.print(f"{system}: {', '.join(f'{name} {version}' for name, version in versions.items())}")


def _plot(document: Path, picture: Path) -> None:
    python = environment("plot", PLOTTING)
    subprocess.run([python, "-m", "bench.peers.plot", document, picture], env=variables(), cwd=REPOSITORY, check=True)


def main() -> None:
    """Parses the command line, measures, reports; exits 1 if a peer could not be installed, or failed."""
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description="Measure against peers from PyPI.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help=f"comma-separated, of {', '.join(SYSTEMS)}")
    parser.add_argument("--durability", choices=["process", "disk"], default="process")
    parser.add_argument("--json", type=result_path, metavar="FILE", help="write all figures there")
    parser.add_argument("--plot", type=result_path, metavar="FILE", help="draw throughput against latency there (SVG)")
    options = parser.parse_args()
    names = options.only.split(",") if options.only else list(SYSTEMS)
    if unknown := sorted(set(names) - set(SYSTEMS)):
        parser.error(f"no system {', '.join(unknown)}; there are {', '.join(SYSTEMS)}")
    if options.plot and not options.json:
        parser.error("--plot draws what --json writes: name a file for it as well")
    with Console(stderr=True).status("") as status:
        systems = [SYSTEMS[name](options.durability) for name in names]
        document, failures = measure(systems, options.rounds, options.durability, status.update)
    _show(document)
    if options.json:
        write_whole(options.json, json.dumps(document, indent=1) + "\n")
    if options.plot:
        try:
            _plot(options.json.resolve(), options.plot.resolve())
        except CannotInstall as error:
            failures.append(f"matplotlib could not be installed: {error}")
    for failure in failures:
        print(failure, file=sys.stderr)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
