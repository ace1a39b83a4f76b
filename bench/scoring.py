"""``scoreline bench --scoring``: what the scoring stage adds to the model, on the device that it finds.

Rows of real text (this repository's own documents, 16 to 256 tokens each text) wait at the scoring stage. Beside the
stage, in turns, each in a process of its own: a bare torch loop over the same rows, with the same device, dtype,
threads, grouping by length and copies, in batches of the manifest's ``max_batch``, but no queue; and the same loop over
batches as they come, each padded to its longest.

==============  =======================================================================================================
``stage``       one worker drains the backlog; rows a second between two settled batches, after a warm-up
``latency``     20 short rows a second: from claimable to settled, beside the bare loop's time for one such row
``poison``      bursts of 64 rows with and without one that makes the model raise: when the other 63 have ended
``slow worker`` two workers, one of which is stopped for nine tenths of the time, beside what both could do
==============  =======================================================================================================
"""

import argparse
import asyncio
import itertools
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from bench.backlog import MODEL, STEP, Backlog, encoded_rows, store_with_model, worker
from pipeline.client import AsyncScoringClient
from pipeline.contracts.problems import Problem
from pipeline.models.folder import ModelStore
from pipeline.service.entry_points import CloneEntryPoint, clone_environment, command
from pipeline.settings import Settings, read_settings
from pipeline.stack.local import LocalStack

STAGE_GOALS = {"cpu": 0.85, "cuda": 0.95}
GROUPING_GOAL = 1.5
LATENCY_GOAL_MS = 3.0
POISON_GOAL = 2.0
SLOW_GOAL = 1.15
LIGHT_RATE = 20
SHORT = 24
"""Tokens of the texts for the latency: one core does 20 of them a second with ease."""
BURST, BURSTS, BURST_EVERY_S = 64, 40, 0.25
SLICE_S = 0.1
SLOWER = 10
Way = Callable[[Sequence[bytes]], object]


def bare_loop(store: ModelStore, *, grouped_by_length: bool = True) -> tuple[Way, int]:
    """A call that runs a batch with nothing around it, and the manifest's ``max_batch``."""
    import safetensors.torch
    import torch

    from scoring.architectures import build
    from scoring.device import cores_given, open_device
    from scoring.model import MOST_PADDED
    from scoring.pieces import Block, blocks

    torch.set_num_threads(read_settings().torch_threads or cores_given())
    artifact = store.load(MODEL, "1")
    device = open_device(os.environ.get("BENCH_DEVICE", "cpu"))
    module = build(artifact.manifest["architecture"])
    module.load_state_dict(safetensors.torch.load(artifact.read("model.safetensors")))
    dtype = getattr(torch, artifact.manifest["dtype"].get(device.place.type, "float32"))
    module.to(device.place, dtype).eval()

    @torch.inference_mode()
    def run(batch: Sequence[bytes]) -> None:
        pieces, sizes = module.pieces(batch)
        if grouped_by_length:
            parts = list(blocks(sizes, module.rows, module.least, MOST_PADDED, varied=device.exact))
        else:
            parts = [Block(range(len(sizes)), max(sizes), len(sizes))]
        outputs: list[torch.Tensor] = []
        order: list[int] = []
        for places, size, rows in parts:
            arguments = device.stage(module.stage([pieces[place] for place in places], size, rows))
            outputs.append(module(*arguments)[: len(places)])
            order += places
        together = torch.cat(outputs)
        in_place = torch.empty_like(together)
        in_place[torch.tensor(order, device=together.device)] = together
        module.raw(in_place).tolist()

    return run, artifact.manifest["max_batch"]


def _bare_rate(store: ModelStore, seconds: float, *, grouped_by_length: bool) -> float:
    run, size = bare_loop(store, grouped_by_length=grouped_by_length)
    bodies = encoded_rows(store, store.load(MODEL, "1").ref)
    batches = itertools.cycle([bodies[at : at + size] for at in range(0, len(bodies) - size + 1, size)])
    run(next(batches))
    done, began = 0, time.monotonic()
    while time.monotonic() - began < seconds:
        run(next(batches))
        done += size
    return done / (time.monotonic() - began)


def _bare_row_ms(store: ModelStore, rows: int) -> float:
    """The median time of one short row."""
    run, _ = bare_loop(store)
    took = []
    for body in encoded_rows(store, store.load(MODEL, "1").ref, rows=rows, longest=SHORT):
        began = time.monotonic()
        run([body])
        took.append(1000 * (time.monotonic() - began))
        time.sleep(1 / LIGHT_RATE)  # as idle in between as the stage is
    return statistics.median(took)


def _in_a_process(what: str, seconds: float) -> float:
    bare = command(CloneEntryPoint.BENCH_SCORING, "--bare", what, "--seconds", str(seconds))
    done = subprocess.run(bare, env=clone_environment(), capture_output=True, text=True, check=True)
    return float(done.stdout)


def _drained_per_s(waiting: Backlog, seconds: float) -> float:
    """Rows that a worker settles per second, once it is warm."""
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


def measure_stage(rounds: int, seconds: float, backlog: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """The stage with a backlog, the bare loop, and the bare loop without grouping."""
    with store_with_model() as settings:
        store = ModelStore(settings.model_store)
        ref = store.load(MODEL, "1").ref
        waiting = Backlog(settings, ref, encoded_rows(store, ref))
        tell(f"{backlog} rows come to wait")
        waiting.fill(backlog)
        began_with = waiting.waiting()
        found: dict[str, list[float]] = {"stage": [], "bare loop": [], "as they come": []}
        ways = {
            "stage": lambda: _drained_per_s(waiting, seconds),
            "bare loop": lambda: _in_a_process("grouped", seconds),
            "as they come": lambda: _in_a_process("as-they-come", seconds),
        }
        for number in range(rounds):
            for name in list(ways) if number % 2 == 0 else reversed(list(ways)):
                tell(f"round {number + 1} of {rounds}: {name}")
                found[name].append(ways[name]())
    of_bare = statistics.median(a / b for a, b in zip(found["stage"], found["bare loop"], strict=True))
    of_order = statistics.median(a / b for a, b in zip(found["bare loop"], found["as they come"], strict=True))
    return {
        "backlog": began_with,
        "rows_per_s": {name: round(statistics.median(rates), 1) for name, rates in found.items()},
        "range": {name: [round(min(rates), 1), round(max(rates), 1)] for name, rates in found.items()},
        "stage / bare loop": _goal(of_bare, STAGE_GOALS[_kind()], at_least=True),
        "grouped / as they come": _goal(of_order, GROUPING_GOAL, at_least=True),
    }


def measure_latency(rounds: int, seconds: float) -> dict[str, Any]:
    """From claimable to settled at light load, and the bare loop's time for such a row."""
    stage_ms, bare_ms = [], []
    with store_with_model() as settings:
        store = ModelStore(settings.model_store)
        ref = store.load(MODEL, "1").ref
        rows = round(seconds * LIGHT_RATE)
        waiting = Backlog(settings, ref, encoded_rows(store, ref, rows=rows, longest=SHORT))
        for _ in range(rounds):
            bare_ms.append(_in_a_process("row", seconds))
            waiting.accept(rows + LIGHT_RATE)
            with worker():
                took = [_passed_ms(waiting) for _ in range(rows + LIGHT_RATE)]
            stage_ms.append(statistics.median(took[LIGHT_RATE:]))
    more = statistics.median(stage - bare for stage, bare in zip(stage_ms, bare_ms, strict=True))
    return {
        "stage_ms": round(statistics.median(stage_ms), 2),
        "bare_ms": round(statistics.median(bare_ms), 2),
        "claimable to settled, ms more than bare": _goal(more, LATENCY_GOAL_MS, at_least=False),
    }


def _passed_ms(waiting: Backlog) -> float:
    before = waiting.scored()
    _, began = waiting.ring_successor(1)
    while waiting.scored() == before:
        time.sleep(0.0002)
    took = time.monotonic() - began
    time.sleep(max(0.0, 1 / LIGHT_RATE - took))
    return 1000 * took


def measure_poison(rounds: int) -> dict[str, Any]:
    """How long the other 63 of a burst take, with a row that makes the model raise and without."""
    plain, poisoned, failed = [], [], 0
    # One attempt: what comes of later ones is no longer the burst's.
    with LocalStack(read_settings({}), chaos_model=True, environment={"SCORELINE_MAX_ATTEMPTS": "1"}) as stack:
        for _ in range(rounds):
            took, bad = asyncio.run(_bursts(stack.settings, poison=False))
            plain += took
            failed += bad
            took, bad = asyncio.run(_bursts(stack.settings, poison=True))
            poisoned += took
            failed += bad
    p99 = [statistics.quantiles(took, n=100)[98] for took in (plain, poisoned)]
    return {
        "p99_ms": {"63 alone": round(p99[0], 1), "with one poison row": round(p99[1], 1)},
        "others_that_did_not_succeed": failed,
        "p99 of the others, with poison / without": _goal(p99[1] / p99[0], POISON_GOAL, at_least=False),
    }


async def _bursts(settings: Settings, *, poison: bool) -> tuple[list[float], int]:
    numbers = itertools.count()

    def row(do: str) -> dict[str, Any]:
        features = {"x": float(next(numbers)), "do": do}
        return {"model": "chaos-probe", "features": features, "no_cache": True}

    took: list[float] = []
    failed = 0
    async with AsyncScoringClient(settings=settings) as client:
        for _ in range(BURSTS):
            began = time.monotonic()
            rows = [row("ok") for _ in range(BURST - 1)] + [row("raise" if poison else "ok")]
            ends = [status async for status in client.submit_many(rows)]
            for number, status in enumerate(ends[:-1]):
                assert not isinstance(status, Problem), status
                end = await client.wait(status["request_id"])
                failed += end["state"] != "succeeded"
                took.append(1000 * (time.monotonic() - began)) if number in (0, BURST - 2) else None
            await asyncio.sleep(max(0.0, BURST_EVERY_S - (time.monotonic() - began)))
    return took, failed


def measure_slow_worker(seconds: float) -> dict[str, Any]:
    """How long two workers take, one of them ten times slower, over what both could do."""
    with store_with_model() as settings:
        store = ModelStore(settings.model_store)
        ref = store.load(MODEL, "1").ref
        waiting = Backlog(settings, ref, encoded_rows(store, ref))
        waiting.fill(4 * STEP)
        alone = _drained_per_s(waiting, seconds)
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
    return {"rows": rows, "took / ideal": _goal(took / ideal, SLOW_GOAL, at_least=False)}


def _wait_for_child(process: subprocess.Popen[bytes]) -> None:
    """Until the worker's child has loaded its models: then it waits, and computes no more."""
    while not (children := psutil.Process(process.pid).children()):
        time.sleep(0.1)
    calm = 0
    while calm < 10:
        calm = calm + 1 if children[0].cpu_percent(0.2) < 20 else 0


@contextmanager
def _slowed(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Its child runs one part in ``SLOWER`` of the time."""
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


def _kind() -> str:
    return "cuda" if os.environ.get("BENCH_DEVICE", "cpu").startswith("cuda") else "cpu"


def _goal(found: float, goal: float, *, at_least: bool) -> dict[str, Any]:
    met = found >= goal if at_least else found <= goal
    return {"found": round(found, 3), "goal": f"{'>=' if at_least else '<='} {goal:g}", "met": met}


def main() -> None:
    """Measure and report; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(prog="scoreline bench --scoring", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=20, help="of each way in each round")
    parser.add_argument("--backlog", type=int, default=50_000)
    parser.add_argument("--only", choices=["stage", "latency", "poison", "slow-worker"])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--no-goals", action="store_true", help="exit 0 even if a goal is missed")
    parser.add_argument("--bare", choices=["grouped", "as-they-come", "row"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare:
        store = ModelStore(read_settings().model_store)
        if options.bare == "row":
            print(_bare_row_ms(store, round(options.seconds * LIGHT_RATE)))
        else:
            print(_bare_rate(store, options.seconds, grouped_by_length=options.bare == "grouped"))
        return
    with Console(stderr=True).status("starting") as status:
        parts: dict[str, Callable[[], dict[str, Any]]] = {
            "stage": lambda: measure_stage(options.rounds, options.seconds, options.backlog, status.update),
            "latency": lambda: measure_latency(options.rounds, options.seconds),
            "poison": lambda: measure_poison(options.rounds),
            "slow-worker": lambda: measure_slow_worker(options.seconds),
        }
        document: dict[str, Any] = {"model": MODEL, "device": _kind()}
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
                verdict = "[green]met[/]" if each["met"] else "[red]missed[/]"
                table.add_row(name, f"{each['found']:g}", each["goal"], verdict)
    console.print(table)


if __name__ == "__main__":
    main()
