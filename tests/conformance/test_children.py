"""A parent and its children: what a dead child had claimed is released at once, whoever has seen it die."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.contracts.stages import Stage, State
from pipeline.ledger.keys import TAG
from pipeline.ledger.workers.claims import Claims
from pipeline.worker import slots
from pipeline.worker.incarnation import Incarnation
from pipeline.worker.judge import exhausted
from pipeline.worker.slots import Slot
from tasks.children import Children
from tests.support.ledger import Ledger, LedgerMaker

PID = 4_000_001
STUBBORN = """
import signal, time
signal.signal(signal.SIGUSR1, lambda *_: print("told", flush=True))
print("up", flush=True)
while True:
    time.sleep(60)
"""


class Clock:
    """The time of the slots, which passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def registered(ledger: Ledger, pid: int, clock: Callable[[], float] = time.monotonic) -> tuple[Incarnation, Slot]:
    """A worker with one child, which has told of nothing yet in its slot."""
    incarnation = Incarnation("preprocess", "preprocess", "cpu", clock)
    slot = incarnation.children.take(pid)
    incarnation.register(ledger.client, child=slot)
    return incarnation, slot


def claims_of(ledger: Ledger, incarnation: Incarnation, pid: int) -> Claims:
    """That child's claims."""
    claims = Claims(ledger.client, ledger.settings, lambda: incarnation.name)
    claims._pid = pid
    return claims


def pool(*processes: Any) -> Any:
    return SimpleNamespace(maintain_pool=lambda: None, _pool=list(processes))


def test_the_claims_of_a_child_that_died_before_the_first_look_are_released(ledger: Ledger) -> None:
    incarnation, slot = registered(ledger, PID)
    claims = claims_of(ledger, incarnation, PID)
    ids = ledger.accept(3)
    batch = ledger.claim(claims)
    assert batch is not None
    slot.began(batch.field)
    children = Children(incarnation, "preprocess", ledger.client, ledger.settings)
    children.watch(pool(SimpleNamespace(pid=PID + 1, exitcode=None)))  # its successor
    assert ledger.client.zcard(f"{TAG}q:{ledger.lane().name}") == len(ids)
    again = ledger.claim(ledger.worker("other"), limit=1)
    assert again is not None
    assert (again.works[0].attempts.starts, again.works[0].attempts.suspect) == (1, True)
    children.watch(pool(SimpleNamespace(pid=PID + 1, exitcode=None)))
    assert ledger.client.hlen(f"{TAG}c:other") == 1, "and once"


def test_a_child_that_dies_before_the_first_look_is_known_by_its_signal(ledger: Ledger) -> None:
    incarnation, slot = registered(ledger, PID)
    claims = claims_of(ledger, incarnation, PID)
    ledger.accept()
    batch = ledger.claim(claims)
    assert batch is not None
    slot.began(batch.field)
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
    ready, stuck = (subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) for _ in range(2))
    try:
        incarnation, _ = registered(ledger, ready.pid)
        children = Children(incarnation, "preprocess", ledger.client, ledger.settings)
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
def clock() -> Clock:
    return Clock()


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
    ledger: Ledger, stubborn: subprocess.Popen[bytes], times: int, clock: Clock
) -> None:
    """In degraded mode it may take twice as long."""
    incarnation, slot = registered(ledger, stubborn.pid, clock)
    incarnation.degraded = times == 2
    claims = claims_of(ledger, incarnation, stubborn.pid)
    (request_id,) = ledger.accept()
    batch = ledger.claim(claims)
    assert batch is not None
    children = Children(incarnation, "preprocess", ledger.client, ledger.settings)
    process = SimpleNamespace(pid=stubborn.pid, exitcode=None)

    slot.began(batch.field)
    began = clock.now

    def look_after(seconds: float) -> None:
        clock.now = began + seconds
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


def test_a_batch_that_has_run_has_no_limit(ledger: Ledger, stubborn: subprocess.Popen[bytes], clock: Clock) -> None:
    incarnation, slot = registered(ledger, stubborn.pid, clock)
    children = Children(incarnation, "preprocess", ledger.client, ledger.settings)
    slot.began("1:1")
    clock.now += 3600
    slot.ended()
    children.watch(pool(SimpleNamespace(pid=stubborn.pid, exitcode=None)))
    assert (children.interrupted, stubborn.poll(), slot.running) == (0, None, "1:1")


def test_what_a_batch_was_told_is_not_told_the_next_one(
    ledger: Ledger, stubborn: subprocess.Popen[bytes], clock: Clock
) -> None:
    """And the next one is told if it takes too long as well, even if it is the same batch that began again."""
    incarnation, slot = registered(ledger, stubborn.pid, clock)
    children = Children(incarnation, "preprocess", ledger.client, ledger.settings)
    living = pool(SimpleNamespace(pid=stubborn.pid, exitcode=None))
    children.meet(living)
    for times in (1, 2):
        slot.began("1:1")
        assert not slot.overran()
        clock.now += ledger.settings.soft_limit_s + 1
        children.watch(living)
        assert slot.overran()
        assert children.interrupted == times
    slot.ended()
    assert not slot.overran()


def test_of_two_children_the_one_that_dies_pays_for_its_own_batch_alone(ledger: Ledger) -> None:
    """A child that is replaced and its successor live side by side for a while."""
    leaving, coming = PID, PID + slots.COUNT  # they begin to look for a slot at the same place
    incarnation = Incarnation("preprocess", "preprocess", "cpu")
    batches = []
    for pid in (leaving, coming):
        slot = incarnation.children.take(pid)
        incarnation.register(ledger.client, child=slot)
        ledger.accept()
        batch = ledger.claim(claims_of(ledger, incarnation, pid))
        assert batch is not None
        slot.began(batch.field)
        batches.append(batch)
    children = Children(incarnation, "preprocess", ledger.client, ledger.settings)
    both = pool(*(SimpleNamespace(pid=pid, exitcode=None) for pid in (leaving, coming)))
    children.meet(both)
    children.watch(both)
    assert not children.starting(), "each of them has registered"
    children.watch(pool(both._pool[1]))
    again = ledger.claim(ledger.worker("other"))
    assert again is not None
    assert [work.id for work in again.works] == [work.id for work in batches[0].works]
    assert again.works[0].attempts.starts == 1
    assert [slot.running for slot in incarnation.children] == [batches[1].field]
    assert ledger.client.hlen(f"{TAG}c:{incarnation.name}") == 1, "the other's batch goes on"


def test_a_row_that_ends_its_process_is_dead_in_the_end(ledger: Ledger) -> None:
    """``os._exit`` in a stage: no process is left to judge it, so its parent charges it."""
    ledger.accept()
    for attempt in range(1, ledger.settings.max_attempts + 1):
        pid = PID + attempt
        incarnation, slot = registered(ledger, pid)
        batch = ledger.claim(claims_of(ledger, incarnation, pid))
        assert batch is not None
        slot.began(batch.field)
        process = SimpleNamespace(pid=pid, exitcode=None)
        children = Children(incarnation, "preprocess", ledger.client, ledger.settings)
        children.meet(pool(process))
        process.exitcode = 3
        children.watch(pool())
    last = ledger.claim(ledger.worker("other"))
    assert last is not None
    end = exhausted(last.works[0], Stage.PREPROCESS, ledger.settings)
    assert end is not None
    assert (end.state, end.error["category"]) == (State.DEAD, "crash")
