"""A sweeper's life: told to stop at any moment, and honest about whether it sweeps."""

import subprocess
import sys

import fakeredis
import pytest
from redis.exceptions import ConnectionError as StoreConnectionError

from pipeline.settings import read_settings
from pipeline.sweeper.loop import Sweeper

# At each traced line of the loop and of what it waits with, in turn, the signal comes: a lock that the loop holds just
# then must not be wanted by the handler.
AT_EACH_LINE = """
import signal, sys, threading, queue
import fakeredis
from pipeline.service import signals
from pipeline.sweeper import loop as module
from pipeline.settings import read_settings

told = 0
for line in range(60):
    sweeper = module.Sweeper(fakeredis.FakeRedis(), read_settings({"SCORELINE_SWEEP_S": "0.001"}))
    sweeper.sweep = lambda: None
    signal.signal(signal.SIGTERM, lambda *_: sweeper.stop())
    seen = 0

    def trace(frame, event, _):
        global seen, told
        if frame.f_code.co_filename not in (module.__file__, signals.__file__, threading.__file__, queue.__file__):
            return None
        if event == "line":
            seen += 1
            if seen == line:
                told += 1
                sys.settrace(None)
                signal.raise_signal(signal.SIGTERM)
                return None
        return trace

    if line:
        sys.settrace(trace)
    else:
        sweeper.stop()
    sweeper.run()
    sys.settrace(None)
print("told", told)
"""


def test_a_signal_at_any_line_of_the_loop_ends_it() -> None:
    done = subprocess.run([sys.executable, "-c", AT_EACH_LINE], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "told 59\n"


class Rounds(Sweeper):
    """Its rounds go as they are told to, then it is stopped."""

    def __init__(self, *outcomes: Exception | None) -> None:
        super().__init__(fakeredis.FakeRedis(), read_settings({"SCORELINE_SWEEP_S": "0.001"}))
        self.outcomes = list(outcomes)
        self.seen: list[str] = []

    def sweep(self) -> None:
        self.seen.append(self.failure)
        outcome = self.outcomes.pop(0) if self.outcomes else self.stop()
        if outcome is not None:
            raise outcome


def test_a_sweeper_is_ready_once_it_has_got_through_a_round_and_not_while_it_fails() -> None:
    sweeper = Rounds(StoreConnectionError("away"), None, StoreConnectionError("again"), None)
    assert "not got through a round" in sweeper.failure
    sweeper.run()
    failed, first, fine, failing, last = sweeper.seen
    assert "not got through a round" in failed
    assert "away" in first
    assert (fine, last) == ("", "")
    assert "again" in failing
    assert sweeper.failure == ""


def test_a_fault_of_its_own_ends_the_sweeper_so_that_it_is_started_again() -> None:
    sweeper = Rounds(ValueError("a fault"))
    with pytest.raises(ValueError, match="a fault"):
        sweeper.run()
