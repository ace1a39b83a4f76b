"""Accepts that the server stops before they accept: what they leave is repaired, in whatever order it is come to."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import redis

from chaos.checker import Claims
from chaos.events import event_of
from pipeline.contracts.problems import StoreUnavailable
from pipeline.contracts.stages import Stage
from pipeline.ledger import keys
from pipeline.ledger.parcels import Submission
from pipeline.ledger.repairing import Repairs
from tests.conformance.conftest import Ledger, LedgerMaker

USER = "exact"
"""Who may do what the ledger needs, and no more (see conftest.py)."""
pytestmark = pytest.mark.parametrize("make_ledger", ["valkey"], indirect=True)


@pytest.fixture
def ledger(make_ledger: LedgerMaker, valkey: str) -> Iterator[Ledger]:
    made = make_ledger()
    made.client.set(keys.AUDIT, "1")
    yield made
    made.client.acl_log_reset()  # what was refused was refused on purpose


@contextmanager
def refused(ledger: Ledger, command: str) -> Iterator[None]:
    """Meanwhile the ledger's user may not send this command."""
    ledger.client.execute_command("ACL", "SETUSER", USER, f"-{command}")
    yield
    ledger.client.execute_command("ACL", "SETUSER", USER, f"+{command}")


def stop(ledger: Ledger, command: str, *submissions: Submission) -> list[bytes]:
    """Submit with a command refused; the ids of what the stopped script has written, flights first."""
    before = set(ledger.client.scan_iter(keys.record(b"*")))
    with refused(ledger, command), pytest.raises(StoreUnavailable):
        ledger.run(ledger.producing.accept(submissions))
    written = [key[len(keys.record(b"")) :] for key in set(ledger.client.scan_iter(keys.record(b"*"))) - before]
    return sorted(written, key=lambda each: ledger.client.get(keys.record(each))[0] % 2)


def test_a_member_whose_flight_was_not_accepted_either_is_computed(ledger: Ledger) -> None:
    flight, member = stop(ledger, "hexists", *2 * [Submission("m", {"n": 1})])
    assert ledger.client.zcard(keys.OPEN) == 0
    repairs = Repairs(ledger.own, ledger.settings)
    assert repairs._reopen([member]) == 1  # as the walk may come to it first
    worker = ledger.worker()
    batch = ledger.claim(worker)
    assert batch is not None
    assert [(work.body, work.unreadable) for work in batch.works] == [([1], "")]
    ledger.complete(worker, batch)
    repairs._reopen([flight])
    ledger.pass_stages(worker, Stage.SCORING, Stage.POSTPROCESS)
    assert ledger.states(flight, member) == ["succeeded", "succeeded"]
    assert not ledger.leftovers()


@pytest.mark.parametrize("command", ["zremrangebyrank", "hset"])
def test_the_log_has_each_claim_that_stands(ledger: Ledger, command: str) -> None:
    """The proof reads it: a claim that was stopped behind its writing is released, and is not to look as if doubled."""
    ledger.accept(3)
    worker = ledger.worker()
    with refused(ledger, command), pytest.raises(redis.exceptions.ResponseError):
        ledger.claim(worker)
    stood = ledger.client.hlen(keys.claims("w1"))
    worker.give_back()
    log = ledger.client.xrange(keys.EVENTS)
    claims = Claims(event_of(*entry) for entry in log)
    assert (claims.doubled, claims.stuck) == ([], [])
    events = [entry[b"what"] for _, entry in log]
    assert events.count(b"claimed") == events.count(b"released") == stood
