"""A parent and its children: what a dead child had claimed is released at once, whoever has seen it die."""

import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.incarnation import _SINCE, Incarnation
from pipeline.ledger.claiming import Claims
from pipeline.ledger.keys import TAG
from tasks.worker import Children
from tests.conformance.conftest import Ledger, LedgerMaker

PID = 4_000_001
STUBBORN = """
import signal, time
signal.signal(signal.SIGUSR1, lambda *_: print("told", flush=True))
print("up", flush=True)
while True:
    time.sleep(60)
"""


def pool(*processes: Any) -> Any:
    return SimpleNamespace(maintain_pool=lambda: None, _pool=list(processes))


def test_a_child_that_died_before_anybody_looked_is_mourned_all_the_same(ledger: Ledger) -> None:
    incarnation = Incarnation("preprocess", "preprocess", "cpu")
    incarnation.register(ledger.client, child=PID)
    claims = Claims(ledger.client, ledger.settings, lambda: incarnation.name)
    claims._pid = PID
    ids = ledger.accept(3)
    batch = ledger.claim(claims)
    assert batch is not None
    incarnation.began(batch.field)
    children = Children(incarnation, "preprocess", ledger.client, ledger.settings)
    children.watch(pool(SimpleNamespace(pid=PID + 1, exitcode=None)))  # its successor
    assert ledger.client.zcard(f"{TAG}q:{ledger.lane().name}") == len(ids)
    again = ledger.claim(ledger.worker("other"), limit=1)
    assert again is not None
    assert (again.works[0].attempts.starts, again.works[0].attempts.suspect) == (1, True)
    children.watch(pool(SimpleNamespace(pid=PID + 1, exitcode=None)))
    assert ledger.client.hlen(f"{TAG}c:other") == 1, "and once"


def test_a_child_that_dies_before_the_first_look_is_known_by_its_signal(ledger: Ledger) -> None:
    incarnation = Incarnation("preprocess", "preprocess", "cpu")
    incarnation.register(ledger.client, child=PID)
    claims = Claims(ledger.client, ledger.settings, lambda: incarnation.name)
    claims._pid = PID
    ledger.accept()
    batch = ledger.claim(claims)
    assert batch is not None
    incarnation.began(batch.field)
    children = Children(incarnation, "preprocess", ledger.client, ledger.settings)
    process = SimpleNamespace(pid=PID, exitcode=None)
    children.meet(pool(process))
    process.exitcode = -9
    children.watch(pool())
    again = ledger.claim(ledger.worker("other"))
    assert again is not None
    assert [error.signal for error in again.works[0].attempts.errors] == ["SIGKILL"]


def test_a_child_that_does_not_become_ready_is_replaced(make_ledger: LedgerMaker) -> None:
    ledger = make_ledger(start_limit_s="0.01")
    incarnation = Incarnation("preprocess", "preprocess", "cpu")
    children = Children(incarnation, "preprocess", ledger.client, ledger.settings)
    ready, stuck = (subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) for _ in range(2))
    try:
        incarnation.register(ledger.client, child=ready.pid)
        while stuck.poll() is None:
            children.watch(pool(*(SimpleNamespace(pid=child.pid, exitcode=None) for child in (ready, stuck))))
            assert children.starting()
        children.watch(pool(SimpleNamespace(pid=ready.pid, exitcode=None)))
        assert not children.starting()
        assert ready.poll() is None
    finally:
        ready.kill()
        ready.wait()


@pytest.fixture
def stubborn() -> Iterator[subprocess.Popen[bytes]]:
    """A child that goes on when it is told that its batch takes too long, and says that it was told."""
    process = subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize("times", [1, 2])
def test_a_batch_that_takes_too_long_is_told_and_then_ended_with_its_process(
    ledger: Ledger, stubborn: subprocess.Popen[bytes], times: int
) -> None:
    """In degraded mode it may take twice as long."""
    incarnation = Incarnation("preprocess", "preprocess", "cpu")
    incarnation.degraded = times == 2
    incarnation.register(ledger.client, child=stubborn.pid)
    claims = Claims(ledger.client, ledger.settings, lambda: incarnation.name)
    claims._pid = stubborn.pid
    (request_id,) = ledger.accept()
    batch = ledger.claim(claims)
    assert batch is not None
    children = Children(incarnation, "preprocess", ledger.client, ledger.settings)
    process = SimpleNamespace(pid=stubborn.pid, exitcode=None)

    def look_after(seconds: float) -> None:
        incarnation.began(batch.field)
        incarnation._shared[_SINCE] = struct.pack("d", time.monotonic() - seconds)
        children.watch(pool(process))

    soft, hard = times * ledger.settings.soft_limit_s, times * ledger.settings.hard_limit_s
    look_after(soft - 5)
    assert children.interrupted == 0
    look_after(soft + 1)
    look_after(soft + 2)
    assert stubborn.stdout is not None
    assert stubborn.stdout.readline() == b"told\n"
    assert children.interrupted == 1, "once"
    look_after(hard - 5)
    assert stubborn.poll() is None
    look_after(hard + 1)
    process.exitcode = stubborn.wait(30)
    children.watch(pool())
    again = ledger.claim(ledger.worker("other"))
    assert again is not None
    (attempt,) = again.works[0].attempts.errors
    assert (attempt.category, attempt.signal) == ("hang", None)
    assert attempt.error == f"ran longer than the hard limit of {hard:g} s"
    assert again.works[0].id == request_id


def test_a_batch_that_has_run_has_no_limit(ledger: Ledger, stubborn: subprocess.Popen[bytes]) -> None:
    incarnation = Incarnation("preprocess", "preprocess", "cpu")
    incarnation.register(ledger.client, child=stubborn.pid)
    children = Children(incarnation, "preprocess", ledger.client, ledger.settings)
    incarnation.began("1:1")
    incarnation._shared[_SINCE] = struct.pack("d", time.monotonic() - 3600)
    incarnation.ended()
    children.watch(pool(SimpleNamespace(pid=stubborn.pid, exitcode=None)))
    assert (children.interrupted, stubborn.poll(), incarnation.running) == (0, None, "1:1")
