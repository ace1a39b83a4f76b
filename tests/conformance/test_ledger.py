"""The rules of the ledger, on every server it may run on."""

import json
import os
import random
from typing import Any

import pytest

from pipeline.contracts.ids import to_text
from pipeline.contracts.problems import (
    AlreadyEnded,
    IdempotencyMismatch,
    InvalidRequest,
    NotDead,
    NotFound,
    Overloaded,
    StoreFull,
    TooLate,
    UnknownModel,
)
from pipeline.contracts.stages import Priority, Stage, State
from pipeline.contracts.status import Failure
from pipeline.contracts.work import Attempts, Completed, Ended, Outcome, Output, RetryLater
from pipeline.judge import exhausted, judge
from pipeline.ledger import keys
from pipeline.ledger.claiming import ClaimLost, Fenced, release_claims
from pipeline.ledger.keys import TAG
from pipeline.ledger.producing import Accepted, Known, Parcel, Submission, idempotency
from pipeline.ledger.releases import Release, ReleaseConflict, publish
from pipeline.sweeper import Sweeper
from tests.conformance.conftest import REF, Ledger, LedgerMaker
from tests.conftest import eventually

FAILURE = Failure(category="unknown", stage="scoring", message="boom", retryable=True)


def dead(starts: int = 3) -> Ended:
    attempts = Attempts()
    for number in range(starts):
        attempts = attempts.charge(1_800_000_000_000 + number, "scoring", "boom")
    return Ended(State.DEAD, FAILURE, attempts)


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
    assert [(end["state"], end["result"]) for end in ends] == [("succeeded", {"n": number}) for number in range(3)]
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


def test_a_lingering_worker_is_woken_instead_of_a_bell(ledger: Ledger) -> None:
    assert ledger.scripts.linger(args=["w1:7", ledger.lane().name, "join"]) == b"joined"
    ledger.accept()
    assert ledger.bells() == 0
    assert ledger.client.lpop(f"{TAG}wake:w1:7") == ledger.lane().name.encode()
    assert ledger.scripts.linger(args=["w1:7", ledger.lane().name, "leave"]) == 0, "a wake was under way"


def test_lingering_sees_work_that_came_in_between(ledger: Ledger) -> None:
    worker = ledger.worker()
    ledger.accept()
    assert worker.linger(ledger.lane(), 0.01) == ledger.lane()
    ledger.claim(worker)
    assert worker.linger(ledger.lane(), 0.01) is None
    assert not ledger.client.exists(f"{TAG}idle:preprocess")


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


def test_a_silent_worker_is_fenced_for_ever(make_ledger: LedgerMaker) -> None:
    ledger = make_ledger(lease_ttl_s="0.2", heartbeat_s="0.05")
    worker = ledger.worker("w1")
    ids = ledger.accept(2)
    assert ledger.claim(worker) is not None
    assert ledger.sweeping.release_dead_workers() == []
    ledger.client.zadd(f"{TAG}beats", {"w1": ledger.sweeping.server_ms() - 1000})
    assert ledger.sweeping.release_dead_workers() == [("w1", 2)]
    assert ledger.scripts.beat(args=["w1", "{}", "0"]) == 0
    with pytest.raises(Fenced):
        ledger.claim(worker)
    assert ledger.client.zcard(f"{TAG}q:{ledger.lane().name}") == len(ids)
    renamed = ledger.worker("w2")
    assert ledger.claim(renamed) is not None


def test_a_heartbeat_in_the_last_moment_keeps_the_claims(make_ledger: LedgerMaker) -> None:
    ledger = make_ledger()
    worker = ledger.worker("w1")
    ledger.accept()
    batch = ledger.claim(worker)
    assert release_claims(ledger.scripts, "w1", charge="loss", fence=True, silent_ms=3000) == -1
    assert batch is not None
    ledger.complete(worker, batch)


def test_only_the_dead_childs_claims_are_released(ledger: Ledger) -> None:
    worker = ledger.worker()
    ledger.accept(4)
    first, second = ledger.claim(worker, limit=2), ledger.claim(worker, limit=2)
    assert first is not None
    assert second is not None
    assert ledger.scripts.release(args=["w1", second.field, "start", "died", "SIGKILL", 0, "0", 0, 0]) == 2
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


def test_an_overdue_batch_is_released_although_its_worker_beats(make_ledger: LedgerMaker) -> None:
    ledger = make_ledger()
    worker = ledger.worker()
    ledger.accept()
    assert ledger.claim(worker) is not None
    assert ledger.sweeping.release_overdue_batches() == 0
    ledger.turn_clock(200)
    assert ledger.sweeping.release_overdue_batches() == 1
    again = ledger.claim(worker)
    assert again is not None
    assert again.works[0].attempts.starts == 1


def test_a_retry_waits_until_it_is_due(ledger: Ledger) -> None:
    worker = ledger.worker()
    (request_id,) = ledger.accept()
    batch = ledger.claim(worker)
    assert batch is not None
    attempts = Attempts().charge(1, "preprocess", "boom")
    ledger.settle(worker, batch, [RetryLater(60_000, attempts)])
    assert ledger.sweeping.revive_due_retries() == 0
    assert ledger.claim(worker) is None
    assert ledger.states(request_id) == ["preprocessing"]
    ledger.turn_clock(61)
    assert ledger.sweeping.revive_due_retries() == 1
    again = ledger.claim(worker)
    assert again is not None
    assert again.works[0].attempts == attempts
    ledger.complete(worker, again)
    ledger.pass_stages(worker, Stage.SCORING, Stage.POSTPROCESS)
    (end,) = ledger.read(request_id)
    assert (end["state"], end["attempts"]) == ("succeeded", 2)
    assert ledger.leftovers() == set()


def test_a_deadline_ends_what_waits_even_with_no_worker(ledger: Ledger) -> None:
    ids = ledger.accept(2, timeout_ms=100)
    (patient,) = ledger.accept(timeout_ms=100_000)
    assert ledger.sweeping.expire_deadlines() == 0
    ledger.turn_clock(0.15)
    # The page of what is due is chosen by the server's own clock.
    while not ledger.sweeping.expire_deadlines():
        pass
    assert ledger.states(*ids, patient) == ["expired", "expired", "queued"]
    (end, _) = ledger.read(*ids)
    assert end["error"]["category"] == "deadline"
    assert ledger.client.zcard(f"{TAG}q:{ledger.lane().name}") == 1


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


def test_an_idle_lane_is_rung_though_its_bell_was_lost(make_ledger: LedgerMaker) -> None:
    ledger = make_ledger(lane_idle_s="60")
    ledger.accept()
    ledger.client.delete(f"{TAG}preprocess")
    assert ledger.sweeping.lanes_with_work() == [ledger.lane().name]
    assert ledger.sweeping.ring_idle(ledger.lane().name) == "served", "a claim may still come"
    ledger.turn_clock(61)
    assert ledger.sweeping.ring_idle(ledger.lane().name) == "rung"
    assert ledger.bells() == 1
    assert ledger.sweeping.ring_idle(ledger.lane().name, unless_bells_wait=True) == "bells"


class SteppedClock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("make_ledger", ["valkey"], indirect=True)
def test_bells_do_not_pile_up_where_nobody_answers_but_one_always_stands(make_ledger: LedgerMaker) -> None:
    ledger, clock = make_ledger(lane_idle_s="1"), SteppedClock()
    sweeper = Sweeper(ledger.client, ledger.settings, clock)
    ledger.accept()
    ledger.turn_clock(60)
    for _ in range(1000):
        sweeper.sweep()
        clock.now += 0.25
    assert 3 <= ledger.bells() <= 14, "250 s with nobody there"
    ledger.client.delete(f"{TAG}preprocess")
    clock.now += 1.25
    sweeper.sweep()
    assert ledger.bells() == 1


@pytest.mark.parametrize("make_ledger", ["valkey"], indirect=True)
def test_a_lane_is_rung_though_bells_of_others_wait(make_ledger: LedgerMaker) -> None:
    ledger, clock = make_ledger(lane_idle_s="1"), SteppedClock()
    sweeper = Sweeper(ledger.client, ledger.settings, clock)
    ledger.accept()
    ledger.client.delete(f"{TAG}preprocess")
    ledger.client.lpush(f"{TAG}preprocess", *[b"{}"] * 20)
    ledger.turn_clock(60)
    sweeper.sweep()
    clock.now += 1
    sweeper.sweep()
    assert ledger.bells() == 21


def test_one_sweeper_leads(ledger: Ledger) -> None:
    assert ledger.sweeping.lead("one")
    assert not ledger.sweeping.lead("two")
    assert ledger.sweeping.lead("one")
    ledger.client.delete(f"{TAG}leader")
    assert ledger.sweeping.lead("two")


def test_nothing_is_accepted_beyond_what_one_script_may_touch(ledger: Ledger) -> None:
    worker = ledger.worker()
    ids = ledger.accept(128)
    batch = ledger.claim(worker, limit=128)
    assert batch is not None
    assert [work.id for work in batch.works] == sorted(ids)
    ledger.complete(worker, batch)
    assert set(ledger.states(*ids)) == {"scoring"}


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
    assert ledger.sweeping.revive_due_retries() == 1
    again = ledger.claim(worker)
    assert again is not None
    assert {work.id for work in again.works} == set(ids)


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


def test_a_state_never_moves_back_when_a_batch_is_released(ledger: Ledger) -> None:
    worker = ledger.worker()
    (request_id,) = ledger.accept()
    assert ledger.states(request_id) == ["queued"]
    assert ledger.claim(worker) is not None
    assert ledger.states(request_id) == ["preprocessing"]
    assert worker.give_back() == 1
    assert ledger.states(request_id) == ["preprocessing"]


def test_a_batch_killed_at_its_limit_says_so(ledger: Ledger) -> None:
    worker = ledger.worker()
    ledger.accept()
    assert ledger.claim(worker) is not None
    ledger.turn_clock(100)
    why = "the process died under it (SIGKILL)"
    released = release_claims(
        ledger.scripts, "w1", charge="start", pid=os.getpid(), reason=why, signal="SIGKILL", limit_ms=90_000
    )
    assert released == 1
    again = ledger.claim(worker)
    assert again is not None
    (attempt,) = again.works[0].attempts.errors
    assert (attempt.error, attempt.signal) == ("ran longer than the hard limit", None)


def test_nobody_lingers_while_another_lanes_bell_waits(ledger: Ledger) -> None:
    worker = ledger.worker()
    ledger.client.lpush(f"{TAG}preprocess", b"a bell")
    ledger.client.sadd(f"{TAG}rung", ledger.lane().name, ledger.lane(Stage.SCORING).name)
    assert worker.linger(ledger.lane(), 0.01) is None
    assert ledger.scripts.linger(args=["w1:1", ledger.lane().name, "join"]) == b"joined", "the bell is its own lane's"
    assert ledger.scripts.linger(args=["w1:1", ledger.lane().name, "leave"]) == 1
    ledger.client.sadd(f"{TAG}rung", "preprocess/other@1#" + "b" * 64)
    assert ledger.scripts.linger(args=["w1:1", ledger.lane().name, "join"]) == b"bell"
    assert worker.linger(ledger.lane(), 3) is None
    assert ledger.client.llen(f"{TAG}idle:preprocess") == 0


def test_a_settle_that_finds_nothing_more_puts_its_worker_on_the_list(ledger: Ledger) -> None:
    worker = ledger.worker()
    ledger.accept()
    batch = ledger.claim(worker)
    assert batch is not None
    assert ledger.complete(worker, batch, claim_next=64) is None
    assert worker.lingers
    ledger.accept()
    assert ledger.bells() == 1, "the first bell; the second request has woken the worker instead"
    assert worker.linger(ledger.lane(), 1) == ledger.lane()
    assert not worker.lingers


def test_a_worker_stands_on_the_list_once(ledger: Ledger) -> None:
    for _ in range(2):
        assert ledger.scripts.linger(args=["w1:1", ledger.lane().name, "join"]) == b"joined"
    assert ledger.client.lrange(f"{TAG}idle:preprocess", 0, -1) == [b"w1:1"]


def test_nothing_is_accepted_while_the_store_is_short_of_memory(ledger: Ledger) -> None:
    (before,) = ledger.accept()
    assert ledger.sweeping.lead("one", short_of_memory=True)
    (refused,) = ledger.run(ledger.producing.accept([Submission("m", {})]))
    assert isinstance(refused, StoreFull)
    worker = ledger.worker()
    ledger.pass_stages(worker, *Stage)
    assert ledger.states(before) == ["succeeded"]
    assert ledger.sweeping.lead("one")
    ledger.accept()


def test_letters_age_out_though_nothing_dies(make_ledger: LedgerMaker) -> None:
    ledger = make_ledger(dead_max_age="3600")
    worker = ledger.worker()
    ledger.accept()
    batch = ledger.claim(worker)
    assert batch is not None
    ledger.settle(worker, batch, [dead()])
    ledger.sweeping.trim_letters()
    assert ledger.client.zcard(f"{TAG}dead") == 1
    ledger.turn_clock(3601)
    ledger.sweeping.trim_letters()
    assert ledger.client.zcard(f"{TAG}dead") == 0


@pytest.mark.parametrize("make_ledger", ["valkey"], indirect=True)
def test_at_the_memory_limit_all_that_is_accepted_ends(ledger: Ledger) -> None:
    worker, client = ledger.worker(), ledger.client
    ids = ledger.accept(100)
    client.config_set("maxmemory", client.info("memory")["used_memory"] - 1000)
    try:
        assert ledger.sweeping.short_of_memory()
        with pytest.raises(StoreFull):
            ledger.run(ledger.producing.accept([Submission("m", {})]))
        assert ledger.sweeping.lead("one", short_of_memory=True, rates={"scoring": 1.0})
        for stage in Stage:
            while batch := ledger.claim(worker, stage):
                ledger.complete(worker, batch)
        assert set(ledger.states(*ids)) == {"succeeded"}
    finally:
        client.config_set("maxmemory", 0)


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
    parcel = Parcel(submissions)
    first = ledger.run(ledger.producing.send(parcel))
    ledger.client.incr(f"{TAG}epoch")
    ledger.client.set(f"{TAG}full", 1)
    again = ledger.run(ledger.producing.send(parcel))
    assert again == first
    assert [type(answer) for answer in again] == [Accepted, Accepted, UnknownModel]
    assert ledger.client.zcard(f"{TAG}open") == 2
    assert ledger.bells() == 1
    assert 0 < ledger.client.pttl(f"{TAG}a:".encode() + parcel.receipt) <= 120_000


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
    ledger.settle(worker, batch, [RetryLater(60_000, Attempts().charge(1, "scoring", "boom"))])
    assert ledger.run(ledger.producing.cancel(request_id))["attempts"] == 1
    ledger.turn_clock(61)
    ledger.sweeping.revive_due_retries()
    assert ledger.claim(worker, Stage.SCORING) is None
    assert ledger.leftovers() == set()


def test_what_has_ended_otherwise_cannot_be_cancelled(ledger: Ledger) -> None:
    (request_id,) = ledger.accept()
    ledger.pass_stages(ledger.worker(), *Stage)
    with pytest.raises(AlreadyEnded, match="succeeded"):
        ledger.run(ledger.producing.cancel(request_id))
    with pytest.raises(NotFound):
        ledger.run(ledger.producing.cancel(request_id[:-1] + bytes([request_id[-1] ^ 1])))
