"""The stage with a backlog, beside the bare loop with and without grouping by length."""

import statistics
import time
from collections.abc import Callable
from typing import Any

from bench.scoring_stage.backlog import STEP, Backlog, store_with_model, waiting_rows, worker
from bench.scoring_stage.bare_loop import in_a_process
from bench.scoring_stage.figures import device_kind, figure

STAGE_GOALS = {"cpu": 0.85, "cuda": 0.95}
GROUPING_GOAL = 1.5


def measure_throughput(
    rounds: int, seconds: float, backlog: int, longest: int, report: Callable[[str], None]
) -> dict[str, Any]:
    """Measures the stage with a backlog, the bare loop, and the bare loop without grouping.

    ``longest``: tokens of the longest text.
    """
    with store_with_model() as settings:
        waiting = waiting_rows(settings, longest=longest)
        report(f"submitting {backlog} rows")
        waiting.fill(backlog)
        began_with = waiting.waiting()
        found: dict[str, list[float]] = {"stage": [], "bare loop": [], "as they come": []}
        ways = {
            "stage": lambda: drained_per_s(waiting, seconds),
            "bare loop": lambda: in_a_process("grouped", seconds, longest),
            "as they come": lambda: in_a_process("as-they-come", seconds, longest),
        }
        for number in range(rounds):
            for name in list(ways) if number % 2 == 0 else reversed(list(ways)):
                report(f"round {number + 1} of {rounds}: {name}")
                found[name].append(ways[name]())
    of_bare = statistics.median(a / b for a, b in zip(found["stage"], found["bare loop"], strict=True))
    of_order = statistics.median(a / b for a, b in zip(found["bare loop"], found["as they come"], strict=True))
    return {
        "backlog": began_with,
        "rows_per_s": {name: round(statistics.median(rates), 1) for name, rates in found.items()},
        "range": {name: [round(min(rates), 1), round(max(rates), 1)] for name, rates in found.items()},
        "stage / bare loop": figure(of_bare, STAGE_GOALS[device_kind()], at_least=True),
        "grouped / as they come": figure(of_order, GROUPING_GOAL, at_least=True),
    }


def drained_per_s(waiting: Backlog, seconds: float) -> float:
    """Measures the rows that a worker settles per second, once it is warm."""
    with worker():
        warm = waiting.scored() + STEP
        while waiting.scored() < warm:
            time.sleep(0.01)
        # Between two settled batches: a window that begins or ends within one would count it wrongly.
        first, since = waiting.next_settle()
        until = since
        while until - since < seconds:
            last, until = waiting.next_settle()
    return (last - first) / (until - since)
