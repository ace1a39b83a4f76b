"""How much a slow worker beside a fast one delays the whole."""

import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil

from bench.scoring_stage.backlog import LONGEST, STEP, store_with_model, waiting_rows, worker
from bench.scoring_stage.figures import figure
from bench.scoring_stage.throughput import drained_per_s

SLOW_GOAL = 1.15
SLICE_S = 0.1
SLOWER = 10


def measure_slow_worker(seconds: float) -> dict[str, Any]:
    """Measures how long two workers take, one of them ten times slower, over what both could do."""
    with store_with_model() as settings:
        waiting = waiting_rows(settings, longest=LONGEST)
        waiting.fill(4 * STEP)
        alone = drained_per_s(waiting, seconds)
        waiting.drop()
        rows = round(seconds * alone)
        before = waiting.scored()
        with worker() as fast, worker() as slow:
            for each in (fast, slow):
                _wait_for_child(each)
            with _slowed(slow):
                waiting.fill(rows)
                first, began = waiting.next_settle()
                while waiting.scored() < before + rows:
                    time.sleep(0.005)
                took = time.monotonic() - began
    ideal = (rows - (first - before)) / (alone * (1 + 1 / SLOWER))
    return {"rows": rows, "took / ideal": figure(took / ideal, SLOW_GOAL, at_least=False)}


def _wait_for_child(process: subprocess.Popen[bytes]) -> None:
    """Waits until the worker's child has loaded its models: then it no longer computes."""
    while not (children := psutil.Process(process.pid).children()):
        time.sleep(0.1)
    calm = 0
    while calm < 10:
        calm = calm + 1 if children[0].cpu_percent(0.2) < 20 else 0


@contextmanager
def _slowed(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Lets its child run for one part in ``SLOWER`` of the time."""
    (child,) = psutil.Process(process.pid).children()
    over = threading.Event()

    def hold() -> None:
        while not over.is_set():
            child.suspend()
            over.wait(SLICE_S * (1 - 1 / SLOWER))
            child.resume()
            over.wait(SLICE_S / SLOWER)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
