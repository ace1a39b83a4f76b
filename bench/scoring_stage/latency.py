"""How long a short row takes at light load, beside the bare loop's time for it."""

import statistics
import time
from typing import Any

from bench.scoring_stage.backlog import LIGHT_RATE, SHORT, Backlog, store_with_model, waiting_rows, worker
from bench.scoring_stage.bare_loop import in_a_process
from bench.scoring_stage.figures import figure

LATENCY_GOAL_MS = 3.0


def measure_latency(rounds: int, seconds: float) -> dict[str, Any]:
    """Measures from claimable to settled at light load, and the bare loop's time for such a row."""
    stage_ms, bare_ms = [], []
    with store_with_model() as settings:
        rows = round(seconds * LIGHT_RATE)
        waiting = waiting_rows(settings, rows=rows, longest=SHORT)
        for _ in range(rounds):
            bare_ms.append(in_a_process("row", seconds, SHORT))
            waiting.accept(rows + LIGHT_RATE)
            with worker():
                took = [_passed_ms(waiting) for _ in range(rows + LIGHT_RATE)]
            stage_ms.append(statistics.median(took[LIGHT_RATE:]))
    more = statistics.median(stage - bare for stage, bare in zip(stage_ms, bare_ms, strict=True))
    return {
        "stage_ms": round(statistics.median(stage_ms), 2),
        "bare_ms": round(statistics.median(bare_ms), 2),
        "claimable to settled, ms more than bare": figure(more, LATENCY_GOAL_MS, at_least=False),
    }


def _passed_ms(waiting: Backlog) -> float:
    before = waiting.scored()
    _, began = waiting.advance(1)
    while waiting.scored() == before:
        time.sleep(0.0002)
    took = time.monotonic() - began
    time.sleep(max(0.0, 1 / LIGHT_RATE - took))
    return 1000 * took
