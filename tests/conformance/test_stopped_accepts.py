"""Accepts that the server stops before they accept: what they leave is repaired, in whatever order it is come to."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from redis.exceptions import RedisError

from chaos.checker import Claims
from chaos.events import event_of
from pipeline.contracts.problems import StoreUnavailable
from pipeline.contracts.stages import Stage
from pipeline.ledger import keys
from pipeline.ledger.producers.submissions import Submission
from pipeline.ledger.sweeper.repairs import Repairs
from tests.support.ledger import Ledger, LedgerMaker

USER = "exact"
"""The user that may do what the ledger needs, and no more (see conftest.py)."""
pytestmark = pytest.mark.parametrize("make_ledger", ["valkey"], indirect=True)


@pytest.fixture
def ledger(make_ledger: LedgerMaker) -> Iterator[Ledger]:
    made = make_ledger()
    made.client.set(keys.AUDIT, "1")
    yield made
    made.client.acl_log_reset()  # what was refused here was refused on purpose


@pytest.fixture
def admin(ledger: Ledger) -> Any:
    return ledger.client


@contextlib.contextmanager
def refused(admin: Any, command: str) -> Iterator[None]:
    admin.execute_command("ACL", "SETUSER", USER, f"-{command}")
    yield
    admin.execute_command("ACL", "SETUSER", USER, f"+{command}")


def stop(ledger: Ledger, admin: Any, command: str, *submissions: Submission) -> list[bytes]:
    """Submit with a command refused; the ids of what the stopped script has written, flights first."""
    before = set(admin.scan_iter(keys.record(b"*")))
    with refused(admin, command), pytest.raises(StoreUnavailable):
        ledger.run(ledger.producing.accept(submissions))
    written = [key[len(keys.record(b"")) :] for key in set(admin.scan_iter(keys.record(b"*"))) - before]
    return sorted(written, key=lambda each: admin.get(keys.record(each))[0] % 2)


def test_a_member_whose_flight_was_not_accepted_either_is_computed(ledger: Ledger, admin: Any) -> None:
    flight, member = stop(ledger, admin, "hexists", *2 * [Submission("m", {"n": 1})])
    assert admin.zcard(keys.OPEN) == 0
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


def test_a_member_that_was_not_accepted_has_the_answer_if_its_flight_has_one(ledger: Ledger, admin: Any) -> None:
    ledger.accept(features={"n": 1})
    (member,) = stop(ledger, admin, "hexists", Submission("m", {"n": 1}))
    ledger.pass_stages(ledger.worker(), *Stage)
    assert Repairs(ledger.own, ledger.settings).scrub() == 0
    assert ledger.states(member) == ["succeeded"]
    assert 0 < admin.pttl(keys.record(member)) <= 1000 * ledger.settings.result_ttl


def test_a_member_that_was_not_accepted_goes_if_its_flight_has_no_answer(ledger: Ledger, admin: Any) -> None:
    (first,) = ledger.accept(features={"n": 1})
    (member,) = stop(ledger, admin, "hexists", Submission("m", {"n": 1}))
    ledger.run(ledger.producing.cancel(first))
    assert Repairs(ledger.own, ledger.settings).scrub() == 0
    assert ledger.states(first, member) == ["cancelled", "not-found"]


@pytest.mark.parametrize("command", ["zremrangebyrank", "hset"])
def test_the_log_has_each_claim_that_stands(ledger: Ledger, admin: Any, command: str) -> None:
    """The proof reads it: a claim that was stopped behind its writing is released, and is not to look as if doubled."""
    ledger.accept(3)
    worker = ledger.worker()
    with refused(admin, command), pytest.raises(RedisError):
        ledger.claim(worker)
    stood = admin.hlen(keys.claims("w1"))
    worker.give_back()
    claims = Claims(event_of(*entry) for entry in admin.xrange(keys.EVENTS))
    assert (claims.doubled, claims.stuck) == ([], [])
    events = [entry[b"what"] for _, entry in admin.xrange(keys.EVENTS)]
    assert events.count(b"claimed") == events.count(b"released") == stood
