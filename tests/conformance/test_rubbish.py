"""What nobody can read or store ends by itself and harms no other."""

import random

import pytest

from pipeline.contracts.problems import (
    InvalidRequest,
)
from pipeline.contracts.stages import Stage
from pipeline.contracts.work import Completed, Output
from pipeline.ledger import keys
from pipeline.ledger.keys import TAG
from pipeline.ledger.producers.submissions import Submission
from pipeline.worker.judge import exhausted, judge
from tests.conformance.conftest import Ledger


@pytest.mark.parametrize(
    "features",
    [
        {"a": {(1, 2): 3}},
        {"a": {1: 3}},
        {"a": b"bytes"},
        {"a": [{"b": (bytearray(b"x"),)}]},
        {"a": {1, 2}},
        {"a": "\udc80"},
    ],
)
def test_only_json_values_are_accepted(ledger: Ledger, features: dict) -> None:
    answers = ledger.run(ledger.producing.accept([Submission("m", features), Submission("m", {"n": 1})]))
    assert isinstance(answers[0], InvalidRequest)
    assert answers[0].errors == [{"pointer": "/features", "message": answers[0].errors[0]["message"]}]
    assert ledger.states(answers[1].id) == ["queued"]


@pytest.mark.spoils
def test_a_record_that_nobody_can_read_ends_and_harms_no_other(ledger: Ledger) -> None:
    worker = ledger.worker()
    broken, good = ledger.accept(2)
    ledger.client.set(keys.record(broken), b"\xc1 rubbish")
    batch = ledger.claim(worker)
    assert batch is not None
    ends = [exhausted(work, Stage.PREPROCESS, ledger.settings) for work in batch.works]
    assert [end is None for end in ends] == [work.id == good for work in batch.works]
    ledger.settle(worker, batch, [end or Completed(Output(b"")) for end in ends])
    assert ledger.states(broken, good) == ["dead", "scoring"]
    (letter,), _ = ledger.run(ledger.letters.page())
    assert letter.id == broken
    assert "cannot be read" in letter.message


@pytest.mark.spoils
def test_a_record_that_nobody_can_read_expires_beside_the_others(ledger: Ledger) -> None:
    broken, good = ledger.accept(2, timeout_ms=100)
    ledger.client.set(keys.record(broken), b"\xc1 rubbish")
    ledger.turn_clock(1)
    assert ledger.sweeping.expire_deadlines() == 2
    assert ledger.states(broken, good) == ["expired", "expired"]


def test_an_output_that_cannot_be_stored_is_dead_and_its_batch_is_not(ledger: Ledger) -> None:
    worker = ledger.worker()
    odd, good = ledger.accept(2)
    batch = ledger.claim(worker)
    assert batch is not None
    outputs = {odd: object(), good: b"vector"}
    ledger.settle(worker, batch, [Completed(Output(outputs[work.id])) for work in batch.works])
    assert ledger.states(odd, good) == ["dead", "scoring"]


def test_errors_with_text_that_is_no_unicode_do_not_stop_a_lane(ledger: Ledger) -> None:
    worker = ledger.worker()
    ids = ledger.accept(3)
    batch = ledger.claim(worker, limit=1)
    assert batch is not None
    error = ValueError("bad \udc80 name")
    retry = judge(error, batch.works[0], Stage.PREPROCESS, batch.server_ms(), ledger.settings, random.Random(1))
    ledger.settle(worker, batch, [retry])
    ledger.client.hset(f"{TAG}attempts", ids[1], b"not json")
    ledger.turn_clock(60)
    assert ledger.sweeping.requeue_due_retries() == (1, 0)
    again = ledger.claim(worker)
    assert again is not None
    assert {work.id for work in again.works} == set(ids)
