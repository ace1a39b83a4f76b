"""``python -m bench.start``: from ``scoreline up`` to the end of the first score, and where that time goes.

``scoreline up`` is started on a chosen port, again and again, each time with a fresh data folder. A producer sends one
request over HTTP, and tries again until it is accepted; the clock stops when its answer has come. The first start is
not counted: it reads everything from the disk. When which service was ready is taken from the services' own logs.
"""

import argparse
import asyncio
import contextlib
import json
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import psutil
from rich.console import Console
from rich.table import Table

from pipeline.contracts.stages import Stage
from pipeline.samples.credit_data import read_applications
from pipeline.stack.programs import choose_ports

SCORELINE = str(Path(sys.executable).parent / "scoreline")
GOAL_S = 4.0
LOOK_S = 0.02
STORE_READY = re.compile(r"^\d+:M (.+?) \* Ready to accept connections", re.MULTILINE)
SPAWNED = re.compile(r"^(.+?),(\d+) INFO spawned: '([a-z]+)'", re.MULTILINE)
READY = {
    "sweeper": "sweeper_leads",
    "api": "Uvicorn running",
    **{str(stage): " ready." for stage in Stage},
}
"""What a service logs when it begins to serve."""


def log_times(logs: Mapping[str, str]) -> dict[str, float]:
    """When each service was spawned and ready (Unix seconds), by the logs: ``NAME spawned``, ``NAME ready``."""
    times = {}
    for second, millis, name in SPAWNED.findall(logs["supervisord"]):
        times[f"{name} spawned"] = datetime.strptime(second, "%Y-%m-%d %H:%M:%S").timestamp() + int(millis) / 1000
    for moment in STORE_READY.findall(logs["store"]):
        times["store ready"] = datetime.strptime(moment, "%d %b %Y %H:%M:%S.%f").timestamp()
    for name, event in READY.items():
        lines = [json.loads(line) for line in logs[name].splitlines() if line.startswith("{")]
        for line in lines:
            if event in f"{line['event']} {line.get('message', '')}":
                times.setdefault(f"{name} ready", datetime.fromisoformat(line["timestamp"]).timestamp())
    return times


async def _first_score(port: int) -> None:
    body = {"model": "credit-default", "features": read_applications()[0].features}
    url = f"http://127.0.0.1:{port}/v1/scores?wait=30"
    async with aiohttp.ClientSession() as http:
        while True:
            with contextlib.suppress(aiohttp.ClientError):  # nobody listens yet
                async with http.post(url, json=body) as answer:
                    if answer.status == 200:
                        assert (await answer.json())["state"] == "succeeded"
                        return
            await asyncio.sleep(LOOK_S)


def _cpu_s(up: int, pids: Mapping[str, list[int]]) -> dict[str, float]:
    """CPU seconds of each service with its children, and of what looks after them."""
    names = {pid: name for name, each in pids.items() for pid in each} | {up: "up"}
    spent: dict[str, float] = defaultdict(float)
    for process in [psutil.Process(up), *psutil.Process(up).children(recursive=True)]:
        name = names.get(process.pid) or names.get(process.ppid(), "")
        spent["supervision and probes" if name in ("", "up") and process.pid != up else name] += sum(
            process.cpu_times()[:2]
        )
    return spent


@dataclass(frozen=True, slots=True)
class Start:
    """One start: seconds from the command until each thing that happened, and what it took of the cores."""

    when_s: dict[str, float]
    cpu_s: dict[str, float]


def start_once() -> Start:
    """Start everything, score one request, stop everything."""
    with tempfile.TemporaryDirectory(prefix="scoreline-bench-") as folder:
        port = choose_ports(api=None, flower=None, health=0).api
        ready_file = Path(folder) / "ready.json"
        command = [SCORELINE, "up", "--port", str(port), "--data-dir", folder, "--ready-file", str(ready_file)]
        began = time.time()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            asyncio.run(_first_score(port))
            scored = time.time()
            while not ready_file.exists():
                time.sleep(LOOK_S)
            ready = time.time()
            cpu = _cpu_s(process.pid, json.loads(ready_file.read_text())["pids"])
            logs = {path.stem: path.read_text() for path in (Path(folder) / "logs").glob("*.log")}
        finally:
            process.send_signal(signal.SIGINT)
            process.wait()
    moments = {**log_times(logs), "first score": scored, "`up` says ready": ready}
    return Start({name: moment - began for name, moment in moments.items()}, cpu)


def measure(starts: int) -> dict[str, Any]:
    """The document that ``--json`` prints."""
    start_once()
    runs = [start_once() for _ in range(starts)]
    found = [run.when_s["first score"] for run in runs]
    median = statistics.median(found)
    return {
        "starts": starts,
        "first_score_s": round(median, 2),
        "range": [round(min(found), 2), round(max(found), 2)],
        "goal": GOAL_S,
        "met": median <= GOAL_S,
        "when_s": _medians([run.when_s for run in runs]),
        "cpu_s": _medians([run.cpu_s for run in runs]),
    }


def _medians(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of each thing, the least first."""
    medians = {name: round(statistics.median(run[name] for run in runs), 2) for name in runs[0]}
    return dict(sorted(medians.items(), key=lambda item: item[1]))


def _show(document: dict[str, Any]) -> None:
    low, high = document["range"]
    title = f"median of {document['starts']} starts; first score {low:.2f}-{high:.2f} s"
    table = Table("what", "seconds after the command", title=title)
    for name, when in document["when_s"].items():
        table.add_row(name, f"{when:.2f}")
    Console(width=80).print(table)
    spent = ", ".join(f"{name} {seconds:.2f}" for name, seconds in reversed(document["cpu_s"].items()))
    print(f"CPU seconds until then, {sum(document['cpu_s'].values()):.1f} in all: {spent}")
    verdict = "met" if document["met"] else "missed"
    print(f"first score {document['first_score_s']:.2f} s, goal <= {document['goal']:g} s: {verdict}")


def main() -> None:
    """Measure and report; exit 1 if the goal is missed."""
    parser = argparse.ArgumentParser(prog="python -m bench.start", description=__doc__)
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    document = measure(options.starts)
    if options.json:
        print(json.dumps(document, indent=1))
    else:
        _show(document)
    sys.exit(not document["met"])


if __name__ == "__main__":
    main()
