"""A parent and its children: what a dead child had claimed is released at once, whoever has seen it die."""

from types import SimpleNamespace
from typing import Any

from pipeline.incarnation import Incarnation
from pipeline.ledger.claiming import Claims
from pipeline.ledger.keys import TAG
from tasks.worker import Children
from tests.conformance.conftest import Ledger

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
