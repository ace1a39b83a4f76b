"""The way of requests through the ledger, on every server it may run on."""

import json
from typing import Any

import pytest

from pipeline.contracts.lanes import parse_lane
from pipeline.contracts.problems import Overloaded, UnknownModel
from pipeline.contracts.releases import Release
from pipeline.contracts.stages import Priority, Stage, State
from pipeline.contracts.status import Failure
from pipeline.contracts.work import Attempts, Completed, Ended, Outcome, Output, RetryLater
from pipeline.ledger.keys import TAG
from pipeline.ledger.producers.submissions import Submission
from pipeline.ledger.recovery import release_claims
from pipeline.ledger.releases import ReleaseConflict, publish
from pipeline.ledger.workers.claims import ClaimLost
from tests.support.ledger import REF, Ledger, LedgerMaker
from tests.support.processes import eventually


def test_a_request_passes_three_stages_and_leaves_nothing_but_its_end(ledger: Ledger) -> None:
    worker = ledger.worker()
    ids = ledger.accept(3)
    assert ledger.states(*ids) == ["queued"] * 3
    batch = ledger.claim(worker)
    assert batch is not None
    assert ledger.states(*ids) == ["preprocessing"] * 3
    ledger.complete(worker, batch)
    assert ledger.states(*ids) == ["scoring"] * 3
    ledger.pass_stages(worker, Stage.SCORING)
    assert ledger.states(*ids) == ["postprocessing"] * 3
    ledger.pass_stages(worker, Stage.POSTPROCESS)
    ends = ledger.read(*ids)
    assert [(end["state"], end["result"]) for end in ends] == [("succeeded", [number]) for number in range(3)]
    assert all(list(end["timings"]) == ["preprocess", "scoring", "postprocess"] for end in ends)
    assert ledger.leftovers() == set()


def test_ids_carry_the_servers_time(ledger: Ledger) -> None:
    before = ledger.sweeping.server_ms()
    (request_id,) = ledger.accept()
    after = ledger.sweeping.server_ms()
    assert int(before) <= int.from_bytes(request_id[:6], "big") <= after


def test_time_never_goes_back_and_does_not_stand_still(ledger: Ledger) -> None:
    future = int(ledger.sweeping.server_ms()) + 60_000
    ledger.client.set(f"{TAG}clock", future)
    (first,) = ledger.accept()
    assert int.from_bytes(first[:6], "big") == future

    def moves_on() -> bool:
        (later,) = ledger.accept()
        return int.from_bytes(later[:6], "big") > future

    eventually(moves_on)
    assert ledger.sweeping.server_ms() >= future


def test_urgent_requests_are_claimed_first_then_by_deadline_then_by_age(ledger: Ledger) -> None:
    worker = ledger.worker()
    (low,) = ledger.accept(priority=Priority.LOW)
    (late,) = ledger.accept(timeout_ms=9_000_000)
    (soon,) = ledger.accept(timeout_ms=60_000)
    (high,) = ledger.accept(priority=Priority.HIGH, timeout_ms=9_000_000)
    batch = ledger.claim(worker)
    assert batch is not None
    assert [work.id for work in batch.works] == [high, soon, late, low]


def test_survivors_keep_their_place_in_the_next_stage(ledger: Ledger) -> None:
    worker = ledger.worker()
    (low,) = ledger.accept(priority=Priority.LOW)
    ledger.pass_stages(worker, Stage.PREPROCESS)
    (high,) = ledger.accept(priority=Priority.HIGH)
    ledger.pass_stages(worker, Stage.PREPROCESS)
    batch = ledger.claim(worker, Stage.SCORING)
    assert batch is not None
    assert [work.id for work in batch.works] == [high, low]


def test_settle_claims_the_next_batch_in_the_same_step(ledger: Ledger) -> None:
    worker = ledger.worker()
    ids = ledger.accept(5)
    batch = ledger.claim(worker, limit=2)
    sizes = []
    while batch is not None:
        sizes.append(len(batch.works))
        batch = ledger.complete(worker, batch, claim_next=2)
    assert sizes == [2, 2, 1]
    assert ledger.states(*ids) == ["scoring"] * 5


def test_one_bell_is_enough_until_it_is_answered(ledger: Ledger) -> None:
    ledger.accept(2)
    ledger.accept(2)
    assert ledger.bells() == 1
    bell = json.loads(ledger.client.lindex(f"{TAG}preprocess", 0))
    assert json.loads(bell["body"])[0] == [ledger.lane().name]
    assert bell["headers"]["task"] == "preprocess.run"
    worker = ledger.worker()
    ledger.claim(worker, limit=1)
    assert ledger.bells() == 2, "what the claim left behind is rung for"


@pytest.mark.parametrize("pool", ["gpu"])
def test_a_model_of_a_pool_is_served_there(ledger: Ledger, pool: str) -> None:
    release = Release("p", "1", "d" * 64, pool, {}, 60)
    ledger.run(publish(ledger.async_client, release, make_current=True))
    ledger.model = release.ref
    same = {"n": -1}

    def submit(**fields: Any) -> bytes:
        (answer,) = ledger.run(ledger.producing.accept([Submission("p", same, **fields)]))
        return answer.id

    first, worker = submit(priority=Priority.LOW, timeout_ms=60_000), ledger.worker()
    preprocess = worker.claim(parse_lane(f"preprocess/p@1#{'d' * 64}"), 64, answers_bell=True)
    assert preprocess is not None
    ledger.complete(worker, preprocess)
    waiting = f"{TAG}q:scoring.gpu/p@1#{'d' * 64}"
    assert ledger.client.zrange(waiting, 0, -1) == [first]
    urgent, patient = submit(priority=Priority.HIGH, timeout_ms=60_000), submit()
    assert ledger.client.zscore(waiting, first) < 2**43
    ledger.run(ledger.producing.cancel(urgent))
    assert ledger.client.zscore(waiting, first) > 2**43
    ledger.turn_clock(90)
    for stage in (Stage.SCORING, Stage.POSTPROCESS):
        batch = worker.claim(parse_lane(release.ref.lane(stage)), 64, answers_bell=True)
        assert batch is not None
        ledger.complete(worker, batch)
    ledger.sweeping.expire_deadlines()
    assert ledger.states(first, urgent, patient)[1:] == ["cancelled", "succeeded"]


def test_a_released_batch_goes_back_to_its_place_and_its_late_settle_is_refused(ledger: Ledger) -> None:
    worker, other = ledger.worker("w1"), ledger.worker("w2")
    ids = ledger.accept(3)
    batch = ledger.claim(worker)
    assert batch is not None
    assert release_claims(ledger.scripts, "w1", charge="loss", reason="vanished") == 3
    with pytest.raises(ClaimLost):
        ledger.complete(worker, batch)
    again = ledger.claim(other)
    assert again is not None
    assert [work.id for work in again.works] == ids
    assert [work.attempts.losses for work in again.works] == [1, 1, 1]
    ledger.complete(other, again)
    with pytest.raises(ClaimLost):
        ledger.complete(worker, batch)
    assert ledger.states(*ids) == ["scoring"] * 3


def test_only_the_dead_childs_claims_are_released(ledger: Ledger) -> None:
    worker = ledger.worker()
    ledger.accept(4)
    first, second = ledger.claim(worker, limit=2), ledger.claim(worker, limit=2)
    assert first is not None
    assert second is not None
    assert ledger.scripts.release(args=["w1", second.field, "start", "died", "SIGKILL", 0, "0", "crash", "", ""]) == [
        2,
        0,
    ]
    ledger.complete(worker, first)
    again = ledger.claim(worker)
    assert again is not None
    assert len(again.works) == 1, "a suspect runs alone"
    (entry,) = again.works[0].attempts.errors
    assert (entry.error, entry.signal, again.works[0].attempts.starts) == ("died", "SIGKILL", 1)


def test_suspects_run_one_by_one_and_the_innocent_together(ledger: Ledger) -> None:
    worker = ledger.worker()
    ids = ledger.accept(3)
    assert ledger.claim(worker) is not None
    release_claims(ledger.scripts, "w1", charge="start", reason="died", signal="SIGSEGV")
    fresh = ledger.accept(2, priority=Priority.HIGH)
    batches = []
    while (batch := ledger.claim(worker)) is not None:
        batches.append([work.id for work in batch.works])
        ledger.complete(worker, batch)
    assert batches == [fresh, [ids[0]], [ids[1]], [ids[2]]]


def test_a_batch_given_back_charges_nothing(ledger: Ledger) -> None:
    worker = ledger.worker()
    ledger.accept(2)
    assert ledger.claim(worker) is not None
    assert worker.give_back() == 2
    again = ledger.claim(worker)
    assert again is not None
    assert [work.attempts for work in again.works] == [Attempts(), Attempts()]


def test_a_retry_waits_until_it_is_due(ledger: Ledger) -> None:
    worker = ledger.worker()
    (request_id,) = ledger.accept()
    batch = ledger.claim(worker)
    assert batch is not None
    attempts = Attempts().charge(1, "preprocess", "unknown", "boom")
    ledger.settle(worker, batch, [RetryLater(60_000, attempts)])
    assert ledger.sweeping.requeue_due_retries() == (0, 0)
    assert ledger.claim(worker) is None
    assert ledger.states(request_id) == ["preprocessing"]
    ledger.turn_clock(61)
    assert ledger.sweeping.requeue_due_retries() == (1, 0)
    again = ledger.claim(worker)
    assert again is not None
    assert again.works[0].attempts == attempts
    ledger.complete(worker, again)
    ledger.pass_stages(worker, Stage.SCORING, Stage.POSTPROCESS)
    (end,) = ledger.read(request_id)
    assert (end["state"], end["attempts"]) == ("succeeded", 2)
    assert ledger.leftovers() == set()


def test_expired_work_never_reaches_the_stage_and_a_late_settle_of_it_is_dropped(ledger: Ledger) -> None:
    worker = ledger.worker()
    (request_id,) = ledger.accept(timeout_ms=100)
    batch = ledger.claim(worker)
    assert batch is not None
    ledger.turn_clock(0.15)
    while not ledger.sweeping.expire_deadlines():
        pass
    ledger.complete(worker, batch)
    assert ledger.states(request_id) == ["expired"]
    assert ledger.claim(worker, Stage.SCORING) is None
    assert ledger.leftovers() == set()


def test_a_claim_skips_what_is_past_its_deadline(ledger: Ledger) -> None:
    worker = ledger.worker()
    (request_id,) = ledger.accept(timeout_ms=100)
    ledger.turn_clock(0.15)
    assert ledger.claim(worker) is None
    while not ledger.sweeping.expire_deadlines():
        pass
    assert ledger.states(request_id) == ["expired"]


def test_what_scoring_has_claimed_finishes_even_late(ledger: Ledger) -> None:
    worker = ledger.worker()
    (request_id,) = ledger.accept(timeout_ms=60_000)
    ledger.pass_stages(worker, Stage.PREPROCESS)
    batch = ledger.claim(worker, Stage.SCORING)
    assert batch is not None
    ledger.turn_clock(70)
    assert ledger.sweeping.expire_deadlines() == 0
    ledger.complete(worker, batch)
    ledger.pass_stages(worker, Stage.POSTPROCESS)
    assert ledger.states(request_id) == ["succeeded"]


def test_an_invalid_row_ends_and_the_others_go_on(ledger: Ledger) -> None:
    worker = ledger.worker()
    ids = ledger.accept(3)
    batch = ledger.claim(worker)
    assert batch is not None
    invalid = Ended(State.INVALID, Failure(category="input", stage="preprocess", message="n: was 1", retryable=False))
    outcomes: list[Outcome] = [Completed(Output(b"x")), invalid, Completed(Output(b"y"))]
    ledger.settle(worker, batch, outcomes)
    assert ledger.states(*ids) == ["scoring", "invalid", "scoring"]
    assert ledger.run(ledger.letters.page())[0] == []


def test_a_result_is_kept_for_its_time(make_ledger: LedgerMaker) -> None:
    ledger = make_ledger(result_ttl="50")
    worker = ledger.worker()
    (request_id,) = ledger.accept()
    assert ledger.client.pttl(f"{TAG}r:".encode() + request_id) == -1, "an unfinished request does not go away"
    ledger.pass_stages(worker, *Stage)
    assert 0 < ledger.client.pttl(f"{TAG}r:".encode() + request_id) <= 50_000
    ledger.client.delete(f"{TAG}r:".encode() + request_id)
    assert ledger.states(request_id) == ["not-found"]
    old = (1_700_000_000_000).to_bytes(6, "big") + request_id[6:]
    assert ledger.states(old) == ["gone"]


def test_no_more_are_accepted_than_may_wait_and_a_refusal_stores_nothing(make_ledger: LedgerMaker) -> None:
    ledger = make_ledger(max_waiting="3")
    ledger.accept(3)
    keys = set(ledger.client.keys())
    (answer,) = ledger.run(ledger.producing.accept([Submission("m", {})]))
    assert isinstance(answer, Overloaded)
    assert answer.retry_after_s
    assert set(ledger.client.keys()) == keys


def test_the_current_version_is_pinned_in_the_moment_of_accept(ledger: Ledger) -> None:
    (old,) = ledger.accept()
    release = Release("m", "2", "b" * 64, "", {"properties": {}})
    ledger.run(publish(ledger.async_client, release, make_current=True))
    (new,) = ledger.accept()
    assert [document["model_version"] for document in ledger.read(old, new)] == ["1", "2"]
    batch = ledger.claim(ledger.worker())
    assert batch is not None
    assert [work.id for work in batch.works] == [old], "each version has a lane of its own"


def test_unknown_models_are_refused_and_known_ones_beside_them_are_not(ledger: Ledger) -> None:
    answers = ledger.run(ledger.producing.accept([Submission("x", {}), Submission("m@1", {}), Submission("m@7", {})]))
    assert isinstance(answers[0], UnknownModel)
    assert isinstance(answers[2], UnknownModel)
    assert not isinstance(answers[1], Exception)


def test_a_released_version_never_changes_its_content(ledger: Ledger) -> None:
    same = Release("m", "1", REF.digest, "", {"properties": {}})
    assert ledger.run(publish(ledger.async_client, same, make_current=False)) is False
    with pytest.raises(ReleaseConflict, match="give the new artifact a new version"):
        ledger.run(publish(ledger.async_client, Release("m", "1", "c" * 64, "", {}), make_current=False))


def test_nothing_is_accepted_beyond_what_one_script_may_touch(ledger: Ledger) -> None:
    worker = ledger.worker()
    ids = ledger.accept(128)
    batch = ledger.claim(worker, limit=128)
    assert batch is not None
    assert [work.id for work in batch.works] == sorted(ids)
    ledger.complete(worker, batch)
    assert set(ledger.states(*ids)) == {"scoring"}


def test_a_state_never_moves_back_when_a_batch_is_released(ledger: Ledger) -> None:
    worker = ledger.worker()
    (request_id,) = ledger.accept()
    assert ledger.states(request_id) == ["queued"]
    assert ledger.claim(worker) is not None
    assert ledger.states(request_id) == ["preprocessing"]
    assert worker.give_back() == 1
    assert ledger.states(request_id) == ["preprocessing"]
