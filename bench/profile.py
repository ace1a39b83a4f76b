"""``make profile`` (``python -m bench.profile``): where a request's microseconds go.

Sends requests through a stack of its own, first by the client, then over HTTP, and says for each process how much CPU
it took for a request, what the store's commands took of that, and what everything costs while nothing is sent.
"""

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import psutil
import redis
import uvloop
from rich.console import Console
from rich.table import Table

from bench.floor import Floor
from bench.processes import Chain, cpu_s, measured_stack
from bench.rows import Row
from bench.ways import Ways
from pipeline.stack.local import LocalStack

IDLE_S = 8.0
COMMANDS = 12


class Spent:
    """CPU seconds of each process since this was made, by what it is."""

    def __init__(self, stack: LocalStack) -> None:
        self._names = {pid: name for name, pids in stack.ready_document()["pids"].items() for pid in pids}
        # Those with a pool. (The store forks now and then to rewrite its file, which is not a pool.)
        self._parents = {pid for pid, name in self._names.items() if name != "store" and psutil.Process(pid).children()}
        (self._supervisor,) = stack.root_pids()
        self._before = self._now()

    def _now(self) -> dict[str, float]:
        seconds: dict[str, float] = defaultdict(float)
        root = psutil.Process(self._supervisor)
        for process in [psutil.Process(), root, *root.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):  # the store's fork, when it has written its file
                seconds[self._name(process)] += cpu_s(process)
        return seconds

    def _name(self, process: psutil.Process) -> str:
        if process.pid == psutil.Process().pid:
            return "producer"
        if process.pid in self._names:
            name = self._names[process.pid]
            return f"{name}, parent" if process.pid in self._parents else name
        parent = process.ppid()
        return f"{self._names[parent]}, child" if parent in self._names else "supervision"

    def since(self) -> dict[str, float]:
        """Returns what was spent until now, the most first."""
        spent = {who: seconds - self._before.get(who, 0.0) for who, seconds in self._now().items()}
        return dict(sorted(spent.items(), key=lambda item: -item[1]))


def _commands(before: dict[str, Any], after: dict[str, Any], requests: int) -> list[dict[str, Any]]:
    rows = []
    for name, seen in after.items():
        earlier = before.get(name, {"calls": 0, "usec": 0})
        calls, micros = seen["calls"] - earlier["calls"], seen["usec"] - earlier["usec"]
        command = name.removeprefix("cmdstat_")
        rows.append({"command": command, "calls": round(calls / requests, 3), "us": round(micros / requests, 2)})
    return sorted(rows, key=lambda row: -row["us"])[:COMMANDS]


def profile(requests: int) -> dict[str, Any]:
    """Returns the document that ``--json`` prints: microseconds a request."""
    document: dict[str, Any] = {"requests": requests}
    with measured_stack("process") as stack:
        ways = Ways(stack, Chain(stack.durability), Floor(stack.durability))
        store: redis.Redis = redis.Redis.from_url(stack.store_url)

        def run(send: Callable[[Row, int], Awaitable[None]], count: int) -> None:
            async def call() -> None:
                await send(Row(), count)

            uvloop.run(call())

        for name, send in (("submit_many", ways.submit_many), ("http-64", ways.http)):
            run(send, requests // 10)
            spent, before = Spent(stack), store.info("commandstats")
            run(send, requests)
            after = store.info("commandstats")
            processes = {who: round(1e6 * seconds / requests, 1) for who, seconds in spent.since().items()}
            document[name] = {
                "us": round(sum(processes.values()), 1),
                "processes": processes,
                "commands": _commands(before, after, requests),
            }
        spent = Spent(stack)
        time.sleep(IDLE_S)
        document["idle, ms a second"] = {
            who: round(1e3 * seconds / IDLE_S, 1) for who, seconds in spent.since().items()
        }
    return document


def _show(document: dict[str, Any]) -> None:
    console = Console(width=120)
    for name in ("submit_many", "http-64"):
        part = document[name]
        table = Table("process", "us/request", "", "command of the store", "calls/request", "us/request", title=name)
        processes = [(who, f"{micros:.1f}") for who, micros in part["processes"].items() if micros >= 0.1]
        commands = [(row["command"], f"{row['calls']:.3f}", f"{row['us']:.2f}") for row in part["commands"]]
        for place in range(max(len(processes), len(commands))):
            left = processes[place] if place < len(processes) else ("", "")
            right = commands[place] if place < len(commands) else ("", "", "")
            table.add_row(*left, "", *right)
        table.add_row("all", f"{part['us']:.1f}", "", "", "", "")
        console.print(table)
    idle = ", ".join(f"{who} {ms:.1f}" for who, ms in document["idle, ms a second"].items() if ms >= 0.1)
    console.print(f"idle, ms of CPU a second: {idle}")


def main() -> None:
    """Profiles and reports."""
    parser = argparse.ArgumentParser(prog="python -m bench.profile", description=__doc__)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    document = profile(options.requests)
    if options.json:
        print(json.dumps(document, indent=1))
    else:
        _show(document)


if __name__ == "__main__":
    main()
