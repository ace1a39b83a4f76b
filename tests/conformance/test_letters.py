"""Dead letters: what they keep, how many are kept, how they are replayed and purged."""

import pytest

from pipeline.contracts.ids import to_text
from pipeline.contracts.problems import InvalidRequest, NotDead, NotFound
from pipeline.contracts.stages import Stage
from pipeline.ledger.keys import TAG
from tests.support.ledger import Ledger, LedgerMaker, dead


def test_a_dead_letter_keeps_everything_and_a_replay_resumes_at_the_stage_that_died(ledger: Ledger) -> None:
    worker = ledger.worker()
    (request_id,) = ledger.accept()
    ledger.pass_stages(worker, Stage.PREPROCESS)
    batch = ledger.claim(worker, Stage.SCORING)
    assert batch is not None
    ledger.settle(worker, batch, [dead()])
    assert ledger.states(request_id) == ["dead"]
    assert ledger.leftovers() == set()
    letter = ledger.run(ledger.letters.get(request_id)).document()
    assert (letter["input"], letter["stage"], letter["category"]) == ({"n": 0}, "scoring", "unknown")
    assert [attempt["n"] for attempt in letter["attempts"]] == [1, 2, 3]

    ledger.run(ledger.letters.replay(request_id))
    assert ledger.states(request_id) == ["scoring"]
    assert ledger.claim(worker, Stage.PREPROCESS) is None
    with pytest.raises(NotDead):
        ledger.run(ledger.letters.replay(request_id))
    ledger.pass_stages(worker, Stage.SCORING, Stage.POSTPROCESS)
    (end,) = ledger.read(request_id)
    assert (end["state"], end["generation"], end["attempts"]) == ("succeeded", 1, 1)


def test_dead_letters_are_bounded_by_count_and_by_age(make_ledger: LedgerMaker) -> None:
    ledger = make_ledger(dead_max_count="3", dead_max_age="60")
    worker = ledger.worker()
    ids = []
    for _ in range(5):
        ids += ledger.accept()
        batch = ledger.claim(worker)
        assert batch is not None
        ledger.settle(worker, batch, [dead()])
        ledger.turn_clock(1)  # none dies in the same millisecond as another
    kept = [letter.id for letter in ledger.run(ledger.letters.page())[0]]
    assert sorted(kept) == sorted(ids[2:])
    assert ledger.client.pttl(f"{TAG}d:".encode() + ids[4]) > 0
    ledger.turn_clock(120)
    ids += ledger.accept()
    batch = ledger.claim(worker)
    assert batch is not None
    ledger.settle(worker, batch, [dead()])
    assert [letter.id for letter in ledger.run(ledger.letters.page())[0]] == [ids[-1]]


def test_letters_are_purged_and_missing_ones_named(ledger: Ledger) -> None:
    worker = ledger.worker()
    ids = ledger.accept(3)
    batch = ledger.claim(worker)
    assert batch is not None
    ledger.settle(worker, batch, [dead()] * 3)
    first, following = ledger.run(ledger.letters.page(limit=2))
    rest, end = ledger.run(ledger.letters.page(limit=2, cursor=following))
    assert {letter.id for letter in first + rest} == set(ids)
    assert end is None
    assert ledger.run(ledger.letters.purge(ids[:2])) == 2
    with pytest.raises(NotFound):
        ledger.run(ledger.letters.get(ids[0]))
    with pytest.raises(InvalidRequest, match="begin again"):
        ledger.run(ledger.letters.page(cursor=to_text(ids[0])))


def test_a_request_that_ended_otherwise_leaves_no_letter(ledger: Ledger) -> None:
    worker = ledger.worker()
    (request_id,) = ledger.accept(timeout_ms=100)
    batch = ledger.claim(worker)
    assert batch is not None
    ledger.turn_clock(1)
    assert ledger.sweeping.expire_deadlines() == 1
    ledger.settle(worker, batch, [dead()])
    assert ledger.states(request_id) == ["expired"]
    assert ledger.run(ledger.letters.page()) == ([], None)
    with pytest.raises(NotDead):
        ledger.run(ledger.letters.replay(request_id))
