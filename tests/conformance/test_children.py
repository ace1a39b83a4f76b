"""A parent and its children: what a dead child had claimed is released at once, whoever has seen it die."""

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

from pipeline.incarnation import Incarnation
from pipeline.ledger.claiming import Claims
from pipeline.ledger.keys import TAG
from tasks.worker import Children
from tests.conformance.conftest import Ledger, LedgerMaker

PID = 4_000_001


def pool(*processes: Any) -> Any:
    return SimpleNamespace(maintain_pool=lambda: None, _pool=list(processes))


def test_a_child_that_died_before_anybody_looked_is_mourned_all_the_same(ledger: Ledger) -> None:
    incarnation = Incarnation("preprocess", "preprocess", "cpu")
    incarnation.register(ledger.client, child=PID)
    claims = Claims(ledger.client, ledger.settings, lambda: incarnation.name, incarnation.began)
    claims._pid = PID
    ids = ledger.accept(3)
    batch = ledger.claim(claims)
    assert batch is not None
    claims.begin(batch)
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
    claims = Claims(ledger.client, ledger.settings, lambda: incarnation.name, incarnation.began)
    claims._pid = PID
    ledger.accept()
    batch = ledger.claim(claims)
    assert batch is not None
    claims.begin(batch)
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
