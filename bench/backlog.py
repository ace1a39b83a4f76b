"""Rows of real text that wait at the scoring stage, in a store where nobody else has anything to do."""

import asyncio
import itertools
import os
import random
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.processes import start_store
from bench.services import publish_models
from pipeline.contracts.lanes import ModelRef, parse_lane
from pipeline.contracts.stages import Stage
from pipeline.contracts.work import Completed, Output
from pipeline.ledger import keys
from pipeline.ledger.producers.accept import Producing
from pipeline.ledger.producers.submissions import Submission
from pipeline.ledger.scripts import Scripts
from pipeline.ledger.workers.claims import Claims
from pipeline.models.folder import ModelStore
from pipeline.service.entry_points import EntryPoint, command
from pipeline.settings import REPOSITORY, Settings, read_settings
from pipeline.store.connection import connect, connect_async
from preprocess.service import Preprocess

MODEL = "relevance-minilm"
DOCUMENTS = ("README.md", "bench/README.md", "CHANGELOG.md")
SHORTEST, LONGEST = 16, 256
"""Tokens of a text."""
ROWS = 2048
STEP = 128
DAY_MS = 86_400_000


def encoded_rows(store: ModelStore, ref: ModelRef, *, rows: int = ROWS, longest: int = LONGEST) -> list[bytes]:
    """Pairs of texts of all lengths up to ``longest`` tokens, as ``preprocess`` makes them; the same each time."""
    rng = random.Random(1)
    words = " ".join((REPOSITORY / name).read_text() for name in DOCUMENTS).split()

    def text() -> str:
        # Markdown has about two tokens a word; the longest are cut by the model's own limit.
        length = rng.randint(SHORTEST // 2, longest // 2)
        at = rng.randrange(len(words) - length)
        return " ".join(words[at : at + length])

    pairs = [{"query": text(), "passage": text()} for _ in range(rows)]
    outputs = Preprocess(store).perform(ref, pairs)
    return [output.body for output in outputs if isinstance(output, Output)]


class Backlog:
    """Has rows wait at the scoring stage, without a worker of the stage before; sees how many were scored."""

    def __init__(self, settings: Settings, ref: ModelRef, bodies: Sequence[bytes]) -> None:
        self._settings = settings
        self._client = connect(settings)
        self._ref = ref
        self._bodies = itertools.cycle(bodies)
        self._numbers = itertools.count()
        self._claims = Claims(self._client, settings, lambda: "bench")
        Scripts(self._client).heartbeat(args=["bench", "{}", "1"])

    def fill(self, rows: int) -> None:
        """Have so many more wait."""
        asyncio.run(self._accept(rows))
        left = rows
        while left:
            came, _ = self.ring_successor(min(STEP, left))
            left -= came

    async def _accept(self, rows: int) -> None:
        store = connect_async(self._settings)
        producing = Producing(store, self._settings)
        for at in range(0, rows, STEP):
            features = ({"query": str(next(self._numbers)), "passage": "-"} for _ in range(min(STEP, rows - at)))
            await producing.accept([Submission(MODEL, each, no_cache=True, timeout_ms=DAY_MS) for each in features])
        await store.aclose()

    def accept(self, rows: int) -> None:
        """Have so many wait for ``ring_successor``, a stage before."""
        asyncio.run(self._accept(rows))

    def ring_successor(self, rows: int) -> tuple[int, float]:
        """Let so many of them come to the scoring stage; how many came, and when they began to (monotonic)."""
        Scripts(self._client).heartbeat(args=["bench", "{}", "1"])
        batch = self._claims.claim(parse_lane(self._ref.lane(Stage.PREPROCESS)), rows, answers_bell=True)
        assert batch is not None
        outcomes = [Completed(Output(next(self._bodies))) for _ in batch.works]
        began = time.monotonic()
        self._claims.settle(batch, outcomes, claim_next=0, model_runs={})
        return len(outcomes), began

    def scored(self) -> int:
        """How many rows the model has run, and were settled."""
        return int(self._client.hget(keys.COUNTS, f"runs:{self._ref.name}@{self._ref.version}") or 0)

    def waiting(self) -> int:
        """How many rows wait at the scoring stage."""
        return int(self._client.zcard(keys.waiting(self._ref.lane(Stage.SCORING))))

    def drop(self) -> None:
        """Forget what waits."""
        self._client.delete(keys.waiting(self._ref.lane(Stage.SCORING)))

    def next_settle(self, *, look_s: float = 0.001) -> tuple[int, float]:
        """Wait for the next batch to be settled: how many rows are scored then, and when that was (monotonic)."""
        before = self.scored()
        while (now := self.scored()) == before:
            time.sleep(look_s)
        return now, time.monotonic()


@contextmanager
def worker() -> Iterator[subprocess.Popen[bytes]]:
    """One scoring worker over the store that the environment names, drained in the end."""
    start = command(EntryPoint.WORKER, Stage.SCORING)
    process = subprocess.Popen(start, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


@contextmanager
def store_with_model() -> Iterator[Settings]:
    """A server and a model store of this run's own; the processes that are started find both by their environment."""
    from training.relevance_minilm import import_minilm

    with tempfile.TemporaryDirectory(prefix="scoreline-bench-") as folder:
        import_minilm(Path(folder) / "models")
        server, url = start_store(Path(folder), "process")
        before = dict(os.environ)
        os.environ["SCORELINE_STORE_URL"] = url
        os.environ["SCORELINE_MODEL_STORE"] = str(Path(folder) / "models")
        try:
            settings = read_settings()
            asyncio.run(publish_models(settings))
            yield settings
        finally:
            server.terminate()
            server.wait()
            os.environ.clear()
            os.environ.update(before)
