"""Sending again and taking back: idempotency keys, receipts, cancelling."""

from typing import Any

import pytest

from pipeline.contracts.problems import (
    AlreadyEnded,
    IdempotencyMismatch,
    NotFound,
    Overloaded,
    TooLate,
    UnknownModel,
)
from pipeline.contracts.stages import Stage
from pipeline.contracts.work import Attempts, RetryLater
from pipeline.ledger import keys
from pipeline.ledger.keys import TAG
from pipeline.ledger.producers.submissions import Accepted, Known, Submission, SubmissionBatch, idempotency
from tests.conformance.conftest import Ledger, LedgerMaker, dead


def keyed(key: str = "k", scope: str = "", *, n: int = 1, **fields: Any) -> Submission:
    return Submission("m", {"n": n}, key=idempotency(scope, key, "m", {"n": n}, "normal", 3600.0), **fields)


def test_a_key_stands_for_one_request(ledger: Ledger) -> None:
    accept = ledger.producing.accept
    first, again, other, elsewhere = ledger.run(accept([keyed(), keyed(), keyed(n=2), keyed(scope="b")]))
    assert isinstance(first, Accepted)
    assert again == Known(first.id), "also within one script"
    assert isinstance(other, IdempotencyMismatch)
    assert isinstance(elsewhere, Accepted)
    assert ledger.run(accept([keyed()])) == [Known(first.id)]
    assert ledger.client.zcard(f"{TAG}open") == 2
    held = keys.TAG.encode() + b"k:" + keyed().key[:16]
    assert ledger.client.pttl(held) == -1, "as long as the request runs"

    ledger.pass_stages(ledger.worker(), *Stage)
    assert ledger.run(accept([keyed(), keyed(n=2)])) == [Known(first.id), AnyMismatch()]
    assert 0 < ledger.client.pexpiretime(held) <= ledger.client.pexpiretime(keys.record(first.id))


class AnyMismatch:
    def __eq__(self, other: object) -> bool:
        return isinstance(other, IdempotencyMismatch)

    __hash__ = None  # type: ignore[assignment]


def test_a_key_is_kept_from_every_end_on(make_ledger: LedgerMaker) -> None:
    ledger = make_ledger(idempotency_ttl="1000", result_ttl="2000")
    worker = ledger.worker()
    late, gone, bad = (keyed(key, timeout_ms=ms) for key, ms in (("late", 100), ("gone", 60_000), ("bad", 60_000)))
    ids = [answer.id for answer in ledger.run(ledger.producing.accept([late, gone, bad]))]
    ledger.run(ledger.producing.cancel(ids[1]))
    ledger.turn_clock(1)
    ledger.sweeping.expire_deadlines()
    batch = ledger.claim(worker)
    assert batch is not None
    ledger.settle(worker, batch, [dead()])
    assert ledger.states(*ids) == ["expired", "cancelled", "dead"]
    for submission, request_id in zip((late, gone, bad), ids, strict=True):
        assert ledger.run(ledger.producing.accept([submission])) == [Known(request_id)]
        assert 0 < ledger.client.pttl(f"{TAG}k:".encode() + submission.key[:16]) <= 1_000_000

    ledger.run(ledger.letters.replay(ids[2]))
    assert ledger.client.pttl(f"{TAG}k:".encode() + bad.key[:16]) == -1, "it runs again"


def test_a_refused_request_leaves_no_key(make_ledger: LedgerMaker) -> None:
    ledger = make_ledger(max_waiting="1")
    (first,) = ledger.run(ledger.producing.accept([keyed("first")]))
    known, refused = ledger.run(ledger.producing.accept([keyed("first"), keyed("second")]))
    assert known == Known(first.id), "who sends again learns the truth, however full it is"
    assert isinstance(refused, Overloaded)
    assert not ledger.client.exists(f"{TAG}k:".encode() + keyed("second").key[:16])


def test_a_receipt_gives_the_same_answers_and_accepts_nothing_twice(ledger: Ledger) -> None:
    submissions = [Submission("m", {"n": 1}), keyed(), Submission("nothing", {})]
    submission_batch = SubmissionBatch(submissions)
    first = ledger.run(ledger.producing.send(submission_batch))
    ledger.client.incr(f"{TAG}epoch")
    ledger.client.set(f"{TAG}memory_full", 1, ex=60)
    again = ledger.run(ledger.producing.send(submission_batch))
    assert again == first
    assert [type(answer) for answer in again] == [Accepted, Accepted, UnknownModel]
    assert ledger.client.zcard(f"{TAG}open") == 2
    assert ledger.bells() == 1
    assert 0 < ledger.client.pttl(f"{TAG}a:".encode() + submission_batch.dedup_token) <= 120_000


def test_what_waits_can_be_cancelled_and_is_never_run(ledger: Ledger) -> None:
    waiting, begun = ledger.accept(2)
    worker = ledger.worker()
    batch = ledger.claim(worker, limit=1)
    assert batch is not None
    for request_id in (waiting, begun):
        ended = ledger.run(ledger.producing.cancel(request_id))
        assert (ended["state"], ended["error"]["category"]) == ("cancelled", "cancelled")
        assert ledger.run(ledger.producing.cancel(request_id)) == ended, "again: the same answer"
    ledger.complete(worker, batch)
    assert ledger.claim(worker) is None
    assert ledger.claim(worker, Stage.SCORING) is None
    assert ledger.states(waiting, begun) == ["cancelled", "cancelled"]
    assert ledger.leftovers() == set()


def test_what_scoring_has_claimed_is_too_late_to_cancel_until_it_waits_again(ledger: Ledger) -> None:
    (request_id,) = ledger.accept()
    worker = ledger.worker()
    ledger.pass_stages(worker, Stage.PREPROCESS)
    batch = ledger.claim(worker, Stage.SCORING)
    assert batch is not None
    with pytest.raises(TooLate):
        ledger.run(ledger.producing.cancel(request_id))
    ledger.settle(worker, batch, [RetryLater(60_000, Attempts().charge(1, "scoring", "unknown", "boom"))])
    assert ledger.run(ledger.producing.cancel(request_id))["attempts"] == 1
    ledger.turn_clock(61)
    ledger.sweeping.requeue_due_retries()
    assert ledger.claim(worker, Stage.SCORING) is None
    assert ledger.leftovers() == set()


def test_what_has_ended_otherwise_cannot_be_cancelled(ledger: Ledger) -> None:
    (request_id,) = ledger.accept()
    ledger.pass_stages(ledger.worker(), *Stage)
    with pytest.raises(AlreadyEnded, match="succeeded"):
        ledger.run(ledger.producing.cancel(request_id))
    with pytest.raises(NotFound):
        ledger.run(ledger.producing.cancel(request_id[:-1] + bytes([request_id[-1] ^ 1])))
