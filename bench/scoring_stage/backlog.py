"""Rows of real text that wait at the scoring stage, in a store that nothing else uses."""

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
LIGHT_RATE = 20
"""Rows a second at light load."""
SHORT = 24
"""Tokens of the texts at light load: one core does 20 of them a second with ease."""
DAY_MS = 86_400_000


def encoded_rows(store: ModelStore, ref: ModelRef, *, longest: int, rows: int = ROWS) -> list[bytes]:
    """Returns pairs of texts of all lengths up to ``longest`` tokens, encoded by ``preprocess``; always the same."""
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
    """Queues rows at the scoring stage, without a worker of the stage before; counts how many were scored."""

    def __init__(self, settings: Settings, ref: ModelRef, bodies: Sequence[bytes]) -> None:
        self._settings = settings
        self._client = connect(settings)
        self._ref = ref
        self._bodies = itertools.cycle(bodies)
        self._numbers = itertools.count()
        self._claims = Claims(self._client, settings, lambda: "bench")
        Scripts(self._client).heartbeat(args=["bench", "{}", "1"])

    def fill(self, rows: int) -> None:
        """Queues so many more."""
        asyncio.run(self._accept(rows))
        left = rows
        while left:
            came, _ = self.advance(min(STEP, left))
            left -= came

    async def _accept(self, rows: int) -> None:
        store = connect_async(self._settings)
        producing = Producing(store, self._settings)
        for at in range(0, rows, STEP):
            features = ({"query": str(next(self._numbers)), "passage": "-"} for _ in range(min(STEP, rows - at)))
            await producing.accept([Submission(MODEL, each, no_cache=True, timeout_ms=DAY_MS) for each in features])
        await store.aclose()

    def accept(self, rows: int) -> None:
        """Queues so many one stage earlier, for ``advance``."""
        asyncio.run(self._accept(rows))

    def advance(self, rows: int) -> tuple[int, float]:
        """Moves so many of them to the scoring stage; returns how many, and when that began (monotonic)."""
        Scripts(self._client).heartbeat(args=["bench", "{}", "1"])
        batch = self._claims.claim(parse_lane(self._ref.lane(Stage.PREPROCESS)), rows, answers_bell=True)
        assert batch is not None
        outcomes = [Completed(Output(next(self._bodies))) for _ in batch.works]
        began = time.monotonic()
        self._claims.settle(batch, outcomes, claim_next=0, model_runs={})
        return len(outcomes), began

    def scored(self) -> int:
        """Returns how many rows the model has run that were settled."""
        return int(self._client.hget(keys.COUNTS, f"runs:{self._ref.name}@{self._ref.version}") or 0)

    def waiting(self) -> int:
        """Returns how many rows wait at the scoring stage."""
        return int(self._client.zcard(keys.waiting(self._ref.lane(Stage.SCORING))))

    def drop(self) -> None:
        """Deletes what waits."""
        self._client.delete(keys.waiting(self._ref.lane(Stage.SCORING)))

    def next_settle(self, *, look_s: float = 0.001) -> tuple[int, float]:
        """Waits for the next batch to be settled; returns how many rows are scored then, and when (monotonic)."""
        before = self.scored()
        while (now := self.scored()) == before:
            time.sleep(look_s)
        return now, time.monotonic()


@contextmanager
def worker() -> Iterator[subprocess.Popen[bytes]]:
    """Runs one scoring worker over the store that the environment names; drains it at the end."""
    start = command(EntryPoint.WORKER, Stage.SCORING)
    process = subprocess.Popen(start, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


@contextmanager
def store_with_model() -> Iterator[Settings]:
    """Starts a store and makes a model store for this run; child processes find both by their environment."""
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


def waiting_rows(settings: Settings, *, longest: int, rows: int = ROWS) -> Backlog:
    """Returns an empty backlog for the model of ``store_with_model``."""
    store = ModelStore(settings.model_store)
    ref = store.load(MODEL, "1").ref
    return Backlog(settings, ref, encoded_rows(store, ref, rows=rows, longest=longest))
