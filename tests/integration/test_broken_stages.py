"""A stage that breaks in the worst ways, in a real worker process: a library that panics, and calls that end it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.ledger.keys import BEATS
from pipeline.settings import REPOSITORY
from pipeline.sweeper.loop import Sweeper
from tests.support.ledger import Ledger, LedgerMaker
from tests.support.processes import eventually

DEEDS = ("pass", "panic", "exit", "interrupt", "os_exit")
WORKER = f"""
import os, sys
from tokenizers import Tokenizer, models, pre_tokenizers
from pipeline.contracts.features import with_names
from pipeline.contracts.stages import Stage
from pipeline.contracts.work import Output
from pipeline.settings import settings
from tasks import child, worker
from tasks.app import app

tokenizer = Tokenizer(models.WordLevel({{"a": 0}}, unk_token="a"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()

class Breaks:
    stage = Stage.PREPROCESS

    def batch_limit(self, model):
        return 64

    def perform(self, model, bodies):
        for body in bodies:
            deed = {DEEDS}[with_names(body, ["n"])["n"] % 10]
            if deed == "panic":  # an assertion of the library's Rust code
                tokenizer.encode("a a a a").truncate(2, stride=5)
            elif deed == "exit":
                sys.exit(0)
            elif deed == "interrupt":
                raise KeyboardInterrupt
            elif deed == "os_exit":
                os._exit(0)
        return [Output(b"") for _ in bodies]

child.load_stage = lambda *_: Breaks()
worker.run_worker(app, Stage.PREPROCESS, settings(), health_port=None)
"""


class Running:
    """A worker of that stage over a ledger, and the sweeper beside it."""

    def __init__(self, ledger: Ledger, log: Path) -> None:
        self.ledger = ledger
        self.log = log
        self.sweeper = Sweeper(ledger.client, ledger.settings)
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER],
            cwd=REPOSITORY,
            env={**os.environ, "SCORELINE_STORE_URL": ledger.settings.store_url, "SCORELINE_BACKOFF_BASE_S": "0.05"},
            stdout=log.open("wb"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def live(self) -> bool:
        return bool(self.ledger.client.zcount(BEATS, 1, "+inf"))

    def said(self, what: str) -> int:
        return self.log.read_text().count(what)

    def states(self, *deeds: str) -> list[str]:
        """What becomes of rows that are accepted together; one that has passed waits for the next stage."""
        of_deeds = [10 * place + DEEDS.index(deed) for place, deed in enumerate(deeds)]
        self.ids = [self.ledger.accept(features={"n": number})[0] for number in of_deeds]

        def settled() -> list[str] | None:
            self.sweeper.sweep()
            states = self.ledger.states(*self.ids)
            return states if set(states) <= {"scoring", "dead"} else None

        found = eventually(settled, within_s=90)
        assert isinstance(found, list)
        return found


@pytest.fixture
def worker(request: pytest.FixtureRequest, make_ledger: LedgerMaker, tmp_path: Path) -> Iterator[Running]:
    running = Running(make_ledger(), tmp_path / "worker.log")
    yield running
    if running.process.poll() is None:
        os.killpg(running.process.pid, signal.SIGKILL)
    running.process.wait()


pytestmark = pytest.mark.parametrize("make_ledger", ["valkey"], indirect=True)


@pytest.mark.parametrize(
    ("deed", "says"),
    [("panic", "PanicException: `stride` must be"), ("exit", "SystemExit: 0"), ("interrupt", "KeyboardInterrupt: ")],
)
def test_a_row_that_raises_no_exception_is_dead_and_its_neighbours_pass(worker: Running, deed: str, says: str) -> None:
    assert worker.states("pass", "pass", deed, "pass", "pass", "pass") == ["scoring"] * 2 + ["dead"] + ["scoring"] * 3
    letter = worker.ledger.run(worker.ledger.letters.get(worker.ids[2]))
    assert [attempt.category for attempt in letter.attempts] == ["crash"] * 3
    assert all(attempt.error.startswith(says) for attempt in letter.attempts)
    eventually(lambda: worker.said('"process_ends"') == 3)
    assert worker.said('"stage_panicked"') == 3, "one traceback of ours for each attempt"


def test_a_row_that_ends_its_process_at_once_is_dead_and_its_neighbours_pass(worker: Running) -> None:
    assert worker.states("pass", "os_exit", "pass") == ["scoring", "dead", "scoring"]
    assert worker.ledger.read(worker.ids[1])[0]["error"]["category"] == "crash"


def test_ctrl_c_ends_a_worker_cleanly(worker: Running) -> None:
    """In a terminal it goes to the whole group of processes."""
    eventually(worker.live)
    assert worker.states("pass") == ["scoring"]
    os.killpg(worker.process.pid, signal.SIGINT)
    assert worker.process.wait(60) == 0
    assert not worker.live(), "it has signed off"
    assert worker.said("Traceback") == 0
