"""Flights: equal inputs are computed once, and each request that shares the computation keeps its own end."""

from typing import Any

import pytest

from pipeline.contracts.problems import NotDead, TooLate
from pipeline.contracts.releases import Release
from pipeline.contracts.stages import Priority, Stage, State
from pipeline.contracts.status import Failure
from pipeline.contracts.work import Attempts, Completed, Ended, Output, RetryLater
from pipeline.ledger.keys import TAG
from pipeline.ledger.producers.submissions import Accepted, Known, Submission, idempotency
from pipeline.ledger.recovery import release_claims
from pipeline.ledger.releases import publish
from pipeline.ledger.workers import claims as claiming
from pipeline.ledger.workers.claims import Batch, Claims
from tests.support.ledger import Ledger, LedgerMaker, dead

SAME = {"n": -1}
HOUR_MS = 3_600_000


def join(ledger: Ledger, count: int = 1, **fields: Any) -> list[bytes]:
    return ledger.accept(count, features=SAME, **fields)


def claimed(ledger: Ledger, worker: Claims, stage: Stage) -> Batch:
    batch = ledger.claim(worker, stage)
    assert batch is not None
    return batch


def finish(ledger: Ledger, worker: Claims) -> None:
    """Let what waits anywhere pass all stages, with a result."""
    for stage in Stage:
        batch = ledger.claim(worker, stage)
        if batch is not None:
            result = {"score": 0.5} if stage is Stage.POSTPROCESS else b"body"
            ledger.settle(worker, batch, [Completed(Output(result))] * len(batch.works))


def field(ledger: Ledger, name: str, *ids: bytes) -> list[Any]:
    return [status[name] for status in ledger.read(*ids)]


def waiting(ledger: Ledger, stage: Stage = Stage.PREPROCESS) -> list[bytes]:
    return ledger.client.zrange(f"{TAG}q:{ledger.lane(stage).name}", 0, -1)


def ends_alone(ledger: Ledger) -> None:
    """Nothing is left but ends, letters, and what others may be given again."""
    assert ledger.leftovers() == set()
    for kind in ("m:", "i:", "e:", "joined", "fanout"):
        assert not list(ledger.client.scan_iter(f"{TAG}{kind}*")), kind
    for key in ledger.client.scan_iter(f"{TAG}f:*".encode()):
        assert 0 < ledger.client.pttl(key) <= 60_000


def test_equal_inputs_are_computed_once_and_all_get_the_answer(ledger: Ledger) -> None:
    worker = ledger.worker()
    ids = join(ledger, 2) + join(ledger)
    assert waiting(ledger) == ids[:1]
    assert field(ledger, "joined", *ids) == [False, True, True]
    ledger.pass_stages(worker, Stage.PREPROCESS)
    ids += join(ledger)
    assert ledger.states(*ids) == ["scoring"] * 4
    scoring = claimed(ledger, worker, Stage.SCORING)
    assert [work.id for work in scoring.works] == ids[:1]
    ids += join(ledger)
    ledger.complete(worker, scoring)
    ids += join(ledger)
    finish(ledger, worker)
    assert ledger.states(*ids) == ["succeeded"] * 6
    assert field(ledger, "result", *ids) == [{"score": 0.5}] * 6
    assert field(ledger, "joined", *ids) == [False] + [True] * 5
    assert int(ledger.client.hget(f"{TAG}counts", "succeeded")) == 6
    ends_alone(ledger)


def test_who_comes_as_the_answer_arrives_gets_it(ledger: Ledger) -> None:
    worker = ledger.worker()
    (first,) = join(ledger)
    finish(ledger, worker)
    key = idempotency("", "k", "m", SAME, "normal", 1.0)
    (late,) = ledger.run(ledger.producing.accept([Submission("m", SAME, key=key)]))
    assert isinstance(late, Known)
    assert late.id != first
    assert waiting(ledger) == []
    assert field(ledger, "result", first, late.id) == [{"score": 0.5}] * 2
    assert field(ledger, "cached", first, late.id) == [False, True]
    (status,) = ledger.read(late.id)
    assert status["finished_at"] >= status["submitted_at"]
    assert ledger.run(ledger.producing.accept([Submission("m", SAME, key=key)])) == [late], "its key stands for it"
    assert 0 < ledger.client.pttl(b"%br:%b" % (TAG.encode(), late.id)) <= ledger.settings.result_ttl * 1000


def test_what_may_not_be_given_again_is_computed_again(ledger: Ledger) -> None:
    ledger.run(publish(ledger.async_client, Release("n", "1", "c" * 64, "", {}), make_current=True))
    ledger.model = ledger.run(ledger.producing.releases(fresh=True)).resolve("n").ref
    worker = ledger.worker()
    (first,) = ledger.run(ledger.producing.accept([Submission("n", SAME)]))
    finish(ledger, worker)
    (again,) = ledger.run(ledger.producing.accept([Submission("n", SAME)]))
    assert isinstance(first, Accepted)
    assert isinstance(again, Accepted)
    assert not again.joined
    assert waiting(ledger) == [again.id]


@pytest.mark.parametrize("apart", [{"no_cache": True}, {"allow_degraded": False}])
def test_some_stand_apart(ledger: Ledger, apart: dict[str, bool]) -> None:
    ids = join(ledger) + join(ledger, **apart)
    assert sorted(waiting(ledger)) == sorted(ids)  # two calls within a millisecond have no order
    assert field(ledger, "joined", *ids) == [False, False]


def test_no_cache_is_for_itself_alone(ledger: Ledger) -> None:
    ids = join(ledger, 2, no_cache=True)
    assert waiting(ledger) == ids
    finish(ledger, ledger.worker())
    assert not ledger.client.keys(f"{TAG}f:*")


def test_the_others_go_on_when_the_first_leaves(ledger: Ledger) -> None:
    worker = ledger.worker()
    first, second = join(ledger, 2)
    assert ledger.run(ledger.producing.cancel(first))["state"] == "cancelled"
    assert ledger.states(first, second) == ["cancelled", "queued"]
    preprocess = claimed(ledger, worker, Stage.PREPROCESS)
    assert preprocess.works[0].body == list(SAME.values()), "its input is kept"
    ledger.complete(worker, preprocess)
    (third,) = join(ledger)
    finish(ledger, worker)
    assert ledger.states(first, second, third) == ["cancelled", "succeeded", "succeeded"]
    ends_alone(ledger)
    assert not ledger.client.keys(f"{TAG}f:*"), "the first one's record is no answer"


def test_the_last_to_leave_ends_the_computation(ledger: Ledger) -> None:
    ids = join(ledger, 3)
    for request_id in ids:
        ledger.run(ledger.producing.cancel(request_id))
    assert ledger.states(*ids) == ["cancelled"] * 3
    assert ledger.claim(ledger.worker()) is None
    ends_alone(ledger)
    (fresh,) = join(ledger)
    assert waiting(ledger) == [fresh]


def test_members_leave_while_a_worker_computes_and_its_settle_is_for_nobody(ledger: Ledger) -> None:
    worker = ledger.worker()
    ids = join(ledger, 2)
    batch = claimed(ledger, worker, Stage.PREPROCESS)
    for request_id in ids:
        ledger.run(ledger.producing.cancel(request_id))
    ledger.complete(worker, batch)
    assert waiting(ledger, Stage.SCORING) == []
    ends_alone(ledger)


def test_the_best_priority_and_the_latest_deadline_of_its_members_count(ledger: Ledger) -> None:
    (first,) = join(ledger, priority=Priority.LOW, timeout_ms=60_000)
    (normal,) = ledger.accept()
    assert waiting(ledger) == [normal, first]
    (urgent,) = join(ledger, priority=Priority.HIGH, timeout_ms=1000)
    assert waiting(ledger) == [first, normal]
    ledger.turn_clock(30)
    assert ledger.sweeping.expire_deadlines() == 1
    assert ledger.states(first, urgent) == ["queued", "expired"]
    assert waiting(ledger) == [normal, first], "who wanted it sooner is gone"
    (patient,) = join(ledger, priority=Priority.LOW, timeout_ms=HOUR_MS)
    ledger.turn_clock(60)
    assert ledger.sweeping.expire_deadlines() == 1
    assert ledger.states(first, patient) == ["expired", "queued"]
    finish(ledger, ledger.worker())
    assert ledger.states(first, urgent, patient, normal) == ["expired", "expired", "succeeded", "succeeded"]
    ends_alone(ledger)


def test_a_patient_member_does_not_move_a_flight_back(ledger: Ledger) -> None:
    (first,) = join(ledger, timeout_ms=60_000)
    others = ledger.accept(3)
    join(ledger, timeout_ms=24 * HOUR_MS)
    assert waiting(ledger) == [first, *others]


def test_an_urgent_member_moves_a_flight_at_every_stage(ledger: Ledger) -> None:
    worker = ledger.worker()
    (first,) = join(ledger, priority=Priority.LOW)
    (other,) = ledger.accept()
    for stage in (Stage.SCORING, Stage.POSTPROCESS):
        before = Stage.PREPROCESS if stage is Stage.SCORING else Stage.SCORING
        ledger.complete(worker, claimed(ledger, worker, before))
        assert waiting(ledger, stage) == [other, first]
        if stage is Stage.POSTPROCESS:
            join(ledger, priority=Priority.HIGH)
            assert waiting(ledger, stage) == [first, other]


def test_scoring_is_the_point_of_no_return_for_every_member(ledger: Ledger) -> None:
    worker = ledger.worker()
    first, second = join(ledger, 2, timeout_ms=60_000)
    ledger.pass_stages(worker, Stage.PREPROCESS)
    scoring = claimed(ledger, worker, Stage.SCORING)
    (third,) = join(ledger, timeout_ms=60_000)
    for request_id in (first, second, third):
        with pytest.raises(TooLate):
            ledger.run(ledger.producing.cancel(request_id))
    ledger.turn_clock(90)
    assert ledger.sweeping.expire_deadlines() == 0
    ledger.complete(worker, scoring)
    finish(ledger, worker)
    assert ledger.states(first, second, third) == ["succeeded"] * 3
    ends_alone(ledger)


def test_what_was_too_late_for_scoring_expires_though_another_member_goes_on(ledger: Ledger) -> None:
    worker = ledger.worker()
    brief, member, patient = join(ledger, 2, timeout_ms=1000) + join(ledger)
    ledger.pass_stages(worker, Stage.PREPROCESS)
    ledger.turn_clock(2)
    scoring = claimed(ledger, worker, Stage.SCORING)
    (briefly,) = join(ledger, timeout_ms=1000)
    assert ledger.sweeping.expire_deadlines() == 2
    ledger.turn_clock(2)
    assert ledger.sweeping.expire_deadlines() == 0
    ledger.complete(worker, scoring)
    finish(ledger, worker)
    assert ledger.states(brief, member, patient, briefly) == ["expired", "expired", "succeeded", "succeeded"]
    ends_alone(ledger)


def test_deadlines_count_again_when_scoring_is_retried(ledger: Ledger) -> None:
    worker = ledger.worker()
    brief = join(ledger, timeout_ms=60_000) + join(ledger, timeout_ms=60_000)
    patient = join(ledger)
    ledger.pass_stages(worker, Stage.PREPROCESS)
    scoring = claimed(ledger, worker, Stage.SCORING)
    attempts = Attempts().charge(1_800_000_000_000, "scoring", "unknown", "boom")
    ledger.settle(worker, scoring, [RetryLater(1000, attempts)])
    ledger.turn_clock(90)
    assert ledger.sweeping.expire_deadlines() == 2
    ledger.sweeping.requeue_due_retries()
    finish(ledger, worker)
    assert ledger.states(*brief, *patient) == ["expired", "expired", "succeeded"]
    ends_alone(ledger)


def test_a_deadline_that_passed_while_scoring_had_the_flight_counts_soon_after_it_is_given_back(ledger: Ledger) -> None:
    worker = ledger.worker("w1")
    patient, brief = join(ledger), join(ledger, timeout_ms=60_000)
    ledger.pass_stages(worker, Stage.PREPROCESS)
    claimed(ledger, worker, Stage.SCORING)
    ledger.turn_clock(61)
    assert ledger.sweeping.expire_deadlines() == 0, "scoring had it in time"
    release_claims(ledger.scripts, "w1", charge="start", reason="died")
    ledger.turn_clock(1.1)
    assert ledger.sweeping.expire_deadlines() == 1
    finish(ledger, worker)
    assert ledger.states(*patient, *brief) == ["succeeded", "expired"]
    ends_alone(ledger)


def test_a_retry_too_late_for_one_member_is_made_for_the_other(ledger: Ledger) -> None:
    worker = ledger.worker()
    brief = join(ledger, timeout_ms=2000)
    ledger.pass_stages(worker, Stage.PREPROCESS)
    scoring = claimed(ledger, worker, Stage.SCORING)
    patient = join(ledger)
    ledger.settle(worker, scoring, [RetryLater(10_000, Attempts().charge(1, "scoring", "unknown", "boom"))])
    ledger.turn_clock(3)
    assert ledger.sweeping.expire_deadlines() == 1
    (status,) = ledger.read(*brief)
    assert "the last attempt failed: boom" in status["error"]["message"]
    ledger.turn_clock(10)
    assert ledger.sweeping.requeue_due_retries() == (1, 0)
    finish(ledger, worker)
    assert ledger.states(*brief, *patient) == ["expired", "succeeded"]
    ends_alone(ledger)


def test_what_was_scored_in_time_does_not_expire_before_it_is_told(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = ledger.worker()
    ids = join(ledger) + join(ledger, timeout_ms=60_000)
    ledger.pass_stages(worker, Stage.PREPROCESS, Stage.SCORING)
    ledger.turn_clock(90)
    last = claimed(ledger, worker, Stage.POSTPROCESS)
    with monkeypatch.context() as patch:
        patch.setattr(claiming, "fan_out", lambda *_: None)
        ledger.settle(worker, last, [Completed(Output({"score": 0.5}))])
    assert ledger.sweeping.expire_deadlines() == 0
    ledger.sweeping.fan_out_flights()
    assert ledger.states(*ids) == ["succeeded"] * 2


def test_members_are_told_before_their_worker_takes_more(ledger: Ledger) -> None:
    worker = ledger.worker()
    ids = join(ledger, 2)
    ledger.pass_stages(worker, Stage.PREPROCESS, Stage.SCORING)
    last = claimed(ledger, worker, Stage.POSTPROCESS)
    other = ledger.accept()
    ledger.pass_stages(worker, Stage.PREPROCESS, Stage.SCORING)
    assert ledger.settle(worker, last, [Completed(Output({"score": 0.5}))], claim_next=64) is None
    assert not worker.parked
    assert worker.park(ledger.lane(Stage.POSTPROCESS), 64, 1) == ledger.lane(Stage.POSTPROCESS)
    finish(ledger, worker)
    assert ledger.states(*ids, *other) == ["succeeded"] * 3


def test_nobody_joins_a_flight_whose_time_is_over(ledger: Ledger) -> None:
    worker = ledger.worker()
    late = join(ledger, 2, timeout_ms=1000)
    ledger.turn_clock(2)
    assert ledger.claim(worker) is None, "its waiting entry is gone; the sweeper has yet to end it"
    (fresh,) = join(ledger)
    assert field(ledger, "joined", fresh) == [False]
    assert ledger.sweeping.expire_deadlines() == 2
    (second,) = join(ledger)
    assert field(ledger, "joined", second) == [True], "the end of the one has not made the other unknown"
    finish(ledger, worker)
    assert ledger.states(*late, fresh, second) == ["expired"] * 2 + ["succeeded"] * 2
    ends_alone(ledger)


@pytest.mark.parametrize("state", [State.INVALID, State.DEAD])
def test_a_failure_ends_every_member(ledger: Ledger, state: State) -> None:
    worker = ledger.worker()
    ids = join(ledger, 3)
    error = Failure(category="input", stage="preprocess", message="Age was -1", retryable=False)
    ledger.settle(worker, claimed(ledger, worker, Stage.PREPROCESS), [Ended(state, error)])
    assert ledger.states(*ids) == [state] * 3
    assert {status["error"]["message"] for status in ledger.read(*ids)} == {"Age was -1"}
    letters, _ = ledger.run(ledger.letters.page())
    assert [letter.died for letter in letters] == ([] if state is State.INVALID else [tuple(sorted(ids))])
    ends_alone(ledger)
    assert not ledger.client.keys(f"{TAG}f:*"), "a failure is no answer for others"


def test_one_letter_lists_all_that_died_and_its_replay_runs_once_for_all(ledger: Ledger) -> None:
    worker = ledger.worker()
    cancelled, *ids = join(ledger, 4)
    ledger.run(ledger.producing.cancel(cancelled))
    ledger.pass_stages(worker, Stage.PREPROCESS)
    ledger.settle(worker, claimed(ledger, worker, Stage.SCORING), [dead()])
    for request_id in ids:
        letter = ledger.run(ledger.letters.get(request_id))
        assert (letter.id, letter.features, letter.died) == (cancelled, SAME, tuple(sorted(ids)))
    (other,) = join(ledger)
    ledger.run(ledger.letters.replay(ids[1]))
    assert field(ledger, "generation", *ids) == [1, 1, 1]
    assert waiting(ledger, Stage.SCORING) == [cancelled]
    finish(ledger, worker)
    assert ledger.states(cancelled, other, *ids) == ["cancelled"] + ["succeeded"] * 4
    assert field(ledger, "joined", other) == [False]
    ends_alone(ledger)
    assert not ledger.client.keys(f"{TAG}d*")


@pytest.mark.parametrize("stage", list(Stage))
def test_a_replay_that_broke_off_is_begun_again(ledger: Ledger, monkeypatch: pytest.MonkeyPatch, stage: Stage) -> None:
    worker = ledger.worker()
    ids = [request_id for _ in range(3) for request_id in join(ledger, 100)]
    ledger.pass_stages(worker, *list(Stage)[: list(Stage).index(stage)])
    ledger.settle(worker, claimed(ledger, worker, stage), [dead()])
    replay, calls = ledger.letters._scripts.replay, []

    async def breaks(**arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2:
            raise RuntimeError("the API died")
        return await replay(**arguments)

    with monkeypatch.context() as patch:
        patch.setattr(ledger.letters._scripts, "replay", breaks)
        with pytest.raises(RuntimeError):
            ledger.run(ledger.letters.replay(ids[0]))
    if stage is not Stage.POSTPROCESS:
        gone = next(request_id for request_id in ids if ledger.states(request_id) != ["dead"])
        assert ledger.run(ledger.producing.cancel(gone))["state"] == "cancelled", "those who wait again are not stuck"
    finish(ledger, worker)
    assert sorted(set(ledger.states(*ids))) == ["cancelled", "dead", "succeeded"][stage is Stage.POSTPROCESS :]
    (letter,) = ledger.run(ledger.letters.page())[0]
    assert len(letter.died) == 300 - 128
    ledger.run(ledger.letters.replay(ids[0]))
    finish(ledger, worker)
    assert sum(state == "succeeded" for state in ledger.states(*ids)) == 300 - (stage is not Stage.POSTPROCESS)
    assert set(field(ledger, "generation", *ids)) == {1}
    assert ledger.run(ledger.letters.page())[0] == []
    ends_alone(ledger)


@pytest.mark.parametrize("cancels", [True, False])
def test_nothing_is_replayed_before_all_know_that_they_are_dead(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, cancels: bool
) -> None:
    worker = ledger.worker()
    first, *others = [request_id for _ in range(3) for request_id in join(ledger, 100)]
    if cancels:
        ledger.run(ledger.producing.cancel(first))
    batch = claimed(ledger, worker, Stage.PREPROCESS)
    with monkeypatch.context() as patch:
        patch.setattr(claiming, "fan_out", lambda *_: None)
        ledger.settle(worker, batch, [dead()])
    for _ in range(2):
        with pytest.raises(NotDead):
            ledger.run(ledger.letters.replay(first))
        ledger.scripts.fan_out(args=[86_400_000, 86_400_000, 86_400_000, first, 1 << 20])
    ledger.sweeping.fan_out_flights()
    ledger.run(ledger.letters.replay(first))
    finish(ledger, worker)
    assert ledger.states(first, *others) == ["cancelled" if cancels else "succeeded"] + ["succeeded"] * 299
    ends_alone(ledger)


def test_a_letter_whose_requests_are_forgotten_is_not_replayed_for_nobody(ledger: Ledger) -> None:
    worker = ledger.worker()
    first, *others = join(ledger, 3)
    ledger.run(ledger.producing.cancel(first))
    ledger.settle(worker, claimed(ledger, worker, Stage.PREPROCESS), [dead()])
    for request_id in others:
        ledger.client.delete(f"{TAG}r:".encode() + request_id)
    with pytest.raises(NotDead, match="no request that died"):
        ledger.run(ledger.letters.replay(first))
    assert waiting(ledger) == []
    ends_alone(ledger)


def test_a_replay_leaves_a_key_to_the_request_that_has_it_now(ledger: Ledger) -> None:
    worker = ledger.worker()
    key = idempotency("", "k", "m", SAME, "normal", 1.0)
    (first,) = ledger.run(ledger.producing.accept([Submission("m", SAME, key=key)]))
    ledger.settle(worker, claimed(ledger, worker, Stage.PREPROCESS), [dead()])
    ledger.client.delete(f"{TAG}k:".encode() + key[:16])  # its life is over
    (second,) = ledger.run(ledger.producing.accept([Submission("m", SAME, key=key)]))
    assert second.id != first.id
    ledger.run(ledger.letters.replay(first.id))
    for _ in range(2):
        assert ledger.run(ledger.producing.accept([Submission("m", SAME, key=key)])) == [Known(second.id)]
        finish(ledger, worker)
    assert ledger.states(first.id, second.id) == ["succeeded"] * 2


def test_hundreds_of_members_are_served_though_the_settler_dies(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = ledger.worker()
    ids = [request_id for _ in range(3) for request_id in join(ledger, 100)]
    ledger.pass_stages(worker, Stage.PREPROCESS, Stage.SCORING)
    last = claimed(ledger, worker, Stage.POSTPROCESS)
    with monkeypatch.context() as patch:
        patch.setattr(claiming, "fan_out", lambda *_: None)  # it dies after its settle
        ledger.settle(worker, last, [Completed(Output({"score": 0.5}))])
    assert ledger.states(*ids) == ["postprocessing"] * 300
    (late,) = join(ledger)
    assert ledger.scripts.fan_out(args=[1000, 1000, 1000, ids[0], 1 << 20]) == [128, 173]
    assert ledger.sweeping.fan_out_flights() == 173
    assert ledger.sweeping.fan_out_flights() == 0
    assert ledger.states(late, *ids) == ["succeeded"] * 301
    ends_alone(ledger)


def test_none_leaves_a_flight_that_has_its_outcome(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = ledger.worker()
    ids = join(ledger, 2)
    batch = claimed(ledger, worker, Stage.PREPROCESS)
    with monkeypatch.context() as patch:
        patch.setattr(claiming, "fan_out", lambda *_: None)
        ledger.settle(worker, batch, [dead()])
    for request_id in ids:
        with pytest.raises(TooLate):
            ledger.run(ledger.producing.cancel(request_id))
    ledger.sweeping.fan_out_flights()
    assert ledger.states(*ids) == ["dead"] * 2
    ends_alone(ledger)


def test_a_flight_given_back_by_a_dead_worker_has_its_members_place(ledger: Ledger) -> None:
    worker = ledger.worker()
    (first,) = join(ledger, priority=Priority.LOW)
    ledger.pass_stages(worker, Stage.PREPROCESS)
    claimed(ledger, worker, Stage.SCORING)
    (second,) = join(ledger, priority=Priority.HIGH)
    release_claims(ledger.scripts, "w1", charge="start", reason="died")
    (score,) = [
        score for _, score in ledger.client.zrange(f"{TAG}q:{ledger.lane(Stage.SCORING).name}", 0, -1, withscores=True)
    ]
    assert score < 2**43, "it waits with high priority"
    assert field(ledger, "attempts", first, second) == [2, 2]
    assert ledger.run(ledger.producing.cancel(second))["state"] == "cancelled", "it waits for scoring again"
    finish(ledger, worker)
    assert ledger.states(first, second) == ["succeeded", "cancelled"]
    ends_alone(ledger)


def test_a_flight_on_its_own_key_is_counted_against_the_bound(make_ledger: LedgerMaker) -> None:
    ledger = make_ledger(max_waiting="2")
    answers = ledger.run(ledger.producing.accept([Submission("m", SAME) for _ in range(3)]))
    assert [type(answer).__name__ for answer in answers] == ["Accepted", "Accepted", "Overloaded"]
