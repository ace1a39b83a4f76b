"""``scoreline bench --scoring``: what the scoring stage adds to the model, on the device that it finds.

Rows of real text (this repository's own documents, about 16 to 256 tokens each text) wait at the scoring stage, 50,000
of them; one worker drains them for a while. Beside it, in turns, in a process of its own, a bare torch loop over the
same rows: same device, dtype, batch size, threads, grouping by length and copies, but no queue. And the same loop over
batches as they come, each padded to its longest. Rates are of a stretch of time, after a warm-up.
"""

import argparse
import asyncio
import itertools
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis
from rich.console import Console
from rich.table import Table

from pipeline.contracts.lanes import ModelRef, parse_lane
from pipeline.contracts.stages import Stage
from pipeline.contracts.work import Completed, Output
from pipeline.ledger import keys
from pipeline.ledger.claiming import Claims
from pipeline.ledger.connection import connect, connect_async
from pipeline.ledger.parcels import Submission
from pipeline.ledger.producing import Producing
from pipeline.ledger.scripts import Scripts
from pipeline.model_store import ModelStore
from pipeline.publishing import publish_all
from pipeline.settings import REPOSITORY, Settings, read_settings
from pipeline.stack.programs import choose_ports
from pipeline.stack.store_server import server_command
from preprocess.service import Preprocess

MODEL = "relevance-minilm"
DOCUMENTS = ("README.md", "bench/README.md", "CHANGELOG.md")
SHORTEST, LONGEST = 16, 256
ROWS = 2048
GOALS = {"cpu": 0.85, "cuda": 0.95}
GROUPING_GOAL = 1.5
STEP = 128
DAY_MS = 86_400_000


def encoded_rows(store: ModelStore, ref: ModelRef) -> list[bytes]:
    """Pairs of texts of all lengths, as ``preprocess`` makes them; the same each time."""
    rng = random.Random(1)
    words = " ".join((REPOSITORY / name).read_text() for name in DOCUMENTS).split()

    def text() -> str:
        # Markdown has about two tokens a word; the longest are cut by the model's own limit.
        length = rng.randint(SHORTEST // 2, LONGEST // 2)
        at = rng.randrange(len(words) - length)
        return " ".join(words[at : at + length])

    rows = [{"query": text(), "passage": text()} for _ in range(ROWS)]
    outputs = Preprocess(store).perform(ref, rows)
    return [output.body for output in outputs if isinstance(output, Output)]


class Backlog:
    """A store in which rows wait at the scoring stage, and nobody else has anything to do."""

    def __init__(self, settings: Settings, ref: ModelRef, bodies: Sequence[bytes]) -> None:
        self._settings = settings
        self._client = connect(settings)
        self._ref = ref
        self._bodies = itertools.cycle(bodies)

    def fill(self, rows: int) -> None:
        """Have so many more wait."""
        Scripts(self._client).beat(args=["bench", "{}", "1"])
        claims = Claims(self._client, self._settings, lambda: "bench")
        lane = parse_lane(self._ref.lane(Stage.PREPROCESS))
        numbers = itertools.count()

        async def accept() -> None:
            store = connect_async(self._settings)
            producing = Producing(store, self._settings)
            for _ in range(0, rows, STEP):
                features = ({"query": str(next(numbers)), "passage": "-"} for _ in range(STEP))
                await producing.accept([Submission(MODEL, each, no_cache=True, timeout_ms=DAY_MS) for each in features])
                batch = claims.claim(lane, STEP, answers_bell=True)
                assert batch is not None
                outcomes = [Completed(Output(next(self._bodies))) for _ in batch.works]
                claims.settle(batch, outcomes, claim_next=0, model_runs={})
            await store.aclose()

        asyncio.run(accept())

    def scored(self) -> int:
        """How many rows the model has run."""
        return int(self._client.hget(keys.COUNTS, f"runs:{MODEL}@{self._ref.version}") or 0)

    def waiting(self) -> int:
        """How many rows wait."""
        return int(self._client.zcard(keys.waiting(self._ref.lane(Stage.SCORING))))

    @contextmanager
    def worker(self) -> Iterator[subprocess.Popen[bytes]]:
        """One scoring worker, drained in the end."""
        process = subprocess.Popen(
            [sys.executable, "-m", "tasks", "scoring"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()

    def drained_per_s(self, seconds: float) -> float:
        """Rows a worker settles per second, once it is warm."""
        with self.worker():
            began = self.scored()
            while self.scored() < began + STEP:
                time.sleep(0.01)
            # Between two settled batches: a window that begins or ends within one would count it wrongly.
            first, since = self._next_settle()
            while time.monotonic() - since < seconds:
                last, until = self._next_settle()
        return (last - first) / (until - since)

    def _next_settle(self) -> tuple[int, float]:
        before = self.scored()
        while (now := self.scored()) == before:
            time.sleep(0.001)
        return now, time.monotonic()


def bare(
    ref: ModelRef, store: ModelStore, bodies: Sequence[bytes], seconds: float, *, grouped_by_length: bool
) -> float:
    """Rows per second of a loop with nothing around it."""
    import safetensors.torch
    import torch

    from scoring.architectures import build
    from scoring.device import open_device
    from scoring.model import MOST_PADDED
    from scoring.pieces import grouped

    torch.set_num_threads(1)
    artifact = store.open(ref)
    device = open_device(os.environ.get("BENCH_DEVICE", "cpu"))
    module = build(artifact.manifest["architecture"])
    module.load_state_dict(safetensors.torch.load(artifact.read("model.safetensors")))
    dtype = getattr(torch, artifact.manifest["dtype"].get(device.place.type, "float32"))
    module.to(device.place, dtype).eval()
    size = artifact.manifest["max_batch"]

    @torch.inference_mode()
    def run(batch: Sequence[bytes]) -> None:
        pieces, sizes = module.pieces(batch)
        groups = grouped(sizes, MOST_PADDED) if grouped_by_length else [list(range(len(sizes)))]
        outputs, order = [], []
        for group in groups:
            outputs.append(module(*device.stage(module.stage([pieces[place] for place in group]))))
            order += group
        together = torch.cat(outputs)
        in_place = torch.empty_like(together)
        in_place[torch.tensor(order, device=together.device)] = together
        module.raw(in_place).tolist()

    rows = itertools.cycle([bodies[at : at + size] for at in range(0, len(bodies) - size + 1, size)])
    for batch in itertools.islice(rows, 2):
        run(batch)
    done, began = 0, time.monotonic()
    while time.monotonic() - began < seconds:
        run(next(rows))
        done += size
    return done / (time.monotonic() - began)


def _bare_in_a_process(seconds: float, *, grouped_by_length: bool) -> float:
    command = [sys.executable, "-m", "bench.scoring", "--bare", "grouped" if grouped_by_length else "as-they-come"]
    run = subprocess.run([*command, "--seconds", str(seconds)], capture_output=True, text=True, check=True)
    return float(run.stdout)


@contextmanager
def _store_with_model() -> Iterator[Settings]:
    """A server and a model store of this run's own; the processes that are started find both by their environment."""
    from tasks.import_minilm import import_minilm

    with tempfile.TemporaryDirectory(prefix="scoreline-bench-") as folder:
        import_minilm(Path(folder) / "models")
        port = choose_ports(api=None, flower=None, health=0).store
        server = subprocess.Popen(
            server_command(port, Path(folder), "process"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.environ["SCORELINE_STORE_URL"] = f"redis://127.0.0.1:{port}/0"
        os.environ["SCORELINE_MODEL_STORE"] = str(Path(folder) / "models")
        client = redis.Redis(port=port)
        try:
            while True:
                try:
                    client.ping()
                    break
                except redis.ConnectionError:
                    time.sleep(0.05)
            yield read_settings()
        finally:
            server.terminate()
            server.wait()


def measure(rounds: int, seconds: float, backlog: int) -> dict[str, Any]:
    """All of it; the document that ``--json`` prints."""
    with _store_with_model() as settings:
        store = ModelStore(settings.model_store)
        ref = store.load(MODEL, "1").ref

        async def publish() -> None:
            client = connect_async(settings)
            await publish_all(client, store)
            await client.aclose()

        asyncio.run(publish())
        waiting = Backlog(settings, ref, encoded_rows(store, ref))
        status = Console(stderr=True).status("filling")
        found: dict[str, list[float]] = {"stage": [], "bare loop": [], "as they come": []}
        ways = {
            "stage": lambda: waiting.drained_per_s(seconds),
            "bare loop": lambda: _bare_in_a_process(seconds, grouped_by_length=True),
            "as they come": lambda: _bare_in_a_process(seconds, grouped_by_length=False),
        }
        with status:
            waiting.fill(backlog)
            began_with = waiting.waiting()
            for number in range(rounds):
                for name in list(ways) if number % 2 == 0 else reversed(list(ways)):
                    status.update(f"round {number + 1} of {rounds}: {name}")
                    found[name].append(ways[name]())
    kind = "cuda" if os.environ.get("BENCH_DEVICE", "cpu").startswith("cuda") else "cpu"
    of_bare = statistics.median(a / b for a, b in zip(found["stage"], found["bare loop"], strict=True))
    of_order = statistics.median(a / b for a, b in zip(found["bare loop"], found["as they come"], strict=True))
    return {
        "device": kind,
        "backlog": began_with,
        "rows_per_s": {name: round(statistics.median(rates), 1) for name, rates in found.items()},
        "range": {name: [round(min(rates), 1), round(max(rates), 1)] for name, rates in found.items()},
        "stage_over_bare": {"ratio": round(of_bare, 3), "goal": GOALS[kind], "met": of_bare >= GOALS[kind]},
        "grouped_over_as_they_come": {
            "ratio": round(of_order, 2), "goal": GROUPING_GOAL, "met": of_order >= GROUPING_GOAL
        },
    }  # fmt: skip


def main() -> None:
    """Measure and report; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(prog="scoreline bench --scoring", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=20, help="of each way in each round")
    parser.add_argument("--backlog", type=int, default=50_000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--bare", choices=["grouped", "as-they-come"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare:
        store = ModelStore(read_settings().model_store)
        ref = store.load(MODEL, "1").ref
        print(bare(ref, store, encoded_rows(store, ref), options.seconds, grouped_by_length=options.bare == "grouped"))
        return
    document = measure(options.rounds, options.seconds, options.backlog)
    if options.json:
        print(json.dumps(document, indent=1))
    else:
        _show(document)
    if not all(document[name]["met"] for name in ("stage_over_bare", "grouped_over_as_they_come")):
        sys.exit(1)


def _show(document: dict[str, Any]) -> None:
    table = Table("way", "rows/s", "range", title=f"{MODEL} on {document['device']}, {document['backlog']} waiting")
    for name, rate in document["rows_per_s"].items():
        low, high = document["range"][name]
        table.add_row(name, f"{rate:.1f}", f"{low:.1f}-{high:.1f}")
    console = Console()
    console.print(table)
    for name, text in (
        ("stage_over_bare", "stage / bare loop"),
        ("grouped_over_as_they_come", "grouped / as they come"),
    ):
        found = document[name]
        verdict = "met" if found["met"] else "missed"
        console.print(f"{text}: {found['ratio']:g}, goal {found['goal']:g}: {verdict}")


if __name__ == "__main__":
    main()
