"""Who may come in when much waits, when keys have limits, when few workers live; and what is told of who waits."""

import json
from typing import Any

import pytest

from pipeline.contracts.problems import DeadlineUnreachable, Degraded, Problem, RateLimited
from pipeline.contracts.stages import Priority, Stage, State
from pipeline.contracts.work import Attempts, RetryLater
from pipeline.ledger.keys import TAG
from pipeline.ledger.producers.submissions import Accepted, Known, Submission, idempotency
from pipeline.ledger.sweeper.lane_metrics import Measuring
from pipeline.ledger.workers.claims import Claims
from pipeline.worker.heartbeat import Heartbeat
from pipeline.worker.incarnation import Incarnation
from tests.conformance.conftest import Ledger, LedgerMaker, dead

LATER = RetryLater(0, Attempts().charge(1, "preprocess", "unknown", "boom"))


class Leader:
    """A leading sweeper's measuring, second by second."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.measuring = Measuring(ledger.client, ledger.settings)
        self.now = 0.0

    def look(self) -> None:
        self.measuring.look(self.now, self.ledger.sweeping.server_ms())
        self.now += 1
        assert self.ledger.sweeping.lead("one", backlogs=self.measuring.backlogs()).leads


def a_worker(ledger: Ledger, stage: Stage = Stage.PREPROCESS) -> Claims:
    name = f"worker-{stage}"
    ledger.scripts.heartbeat(args=[name, json.dumps({"stage": stage, "queue": stage}), "1"])
    return Claims(ledger.client, ledger.settings, lambda: name)


def work_off(ledger: Ledger, worker: Claims, count: int, stage: Stage = Stage.PREPROCESS) -> None:
    batch = ledger.claim(worker, stage, count)
    assert batch is not None
    assert len(batch.works) == count
    ledger.complete(worker, batch)


def submit(ledger: Ledger, **fields: Any) -> Accepted | Problem:
    (answer,) = ledger.run(ledger.producing.accept([Submission("m", {"n": next(ledger.numbers)}, **fields)]))
    assert isinstance(answer, Accepted | Problem)
    return answer


def a_backlog(ledger: Ledger) -> Leader:
    """150 requests wait for preprocess, which does 50 a second."""
    worker, leader = a_worker(ledger), Leader(ledger)
    ledger.accept(100)
    ledger.accept(100)
    leader.look()
    work_off(ledger, worker, 50)
    leader.look()
    return leader


def test_what_cannot_be_done_in_time_is_refused_at_once(ledger: Ledger) -> None:
    """150 wait at 50 a second: three seconds, which one that is due later would have to wait."""
    a_backlog(ledger)
    assert isinstance(submit(ledger, timeout_ms=10_000, priority=Priority.LOW), Accepted), "it has the time"
    # Its timeout is shorter than what waits takes, but it would be claimed before all that: its deadline is nearer.
    assert isinstance(submit(ledger, timeout_ms=2000), Accepted)
    refused = submit(ledger, timeout_ms=2000, priority=Priority.LOW)
    assert isinstance(refused, DeadlineUnreachable)
    assert "about 3.0 s, more than 80% of its timeout of 2 s" in refused.detail
    assert refused.retry_after_s == 2


def test_a_refused_request_leaves_nothing_behind(ledger: Ledger) -> None:
    a_backlog(ledger)
    before = sorted(ledger.client.keys())
    key = idempotency("", "order-1", "m", {}, "low", 2)
    assert isinstance(submit(ledger, timeout_ms=2000, priority=Priority.LOW, key=key), DeadlineUnreachable)
    assert sorted(ledger.client.keys()) == before
    body = idempotency("", "order-1", "m", {}, "low", 10)
    assert isinstance(submit(ledger, timeout_ms=10_000, priority=Priority.LOW, key=body), Accepted)


def test_the_backlog_of_later_stages_counts(ledger: Ledger) -> None:
    preprocess, scoring, leader = a_worker(ledger), a_worker(ledger, Stage.SCORING), Leader(ledger)
    for _ in range(2):
        ledger.accept(100)
        work_off(ledger, preprocess, 100)
    leader.look()
    work_off(ledger, scoring, 50, Stage.SCORING)
    leader.look()
    assert isinstance(submit(ledger, timeout_ms=2000, priority=Priority.LOW), DeadlineUnreachable)


def test_nobody_is_refused_by_a_pace_that_is_not_known(ledger: Ledger) -> None:
    """A lane that was never busy has no pace: what it did was all there was to do."""
    worker, leader = a_worker(ledger), Leader(ledger)
    for _ in range(3):
        ledger.accept(2)
        work_off(ledger, worker, 2)
        leader.look()
    ledger.accept(100)
    leader.look()
    assert isinstance(submit(ledger, timeout_ms=100, priority=Priority.LOW), Accepted)


def test_without_a_live_worker_all_come_in(ledger: Ledger) -> None:
    leader = a_backlog(ledger)
    ledger.turn_clock(10)
    leader.look()
    assert isinstance(submit(ledger, timeout_ms=2000, priority=Priority.LOW), Accepted)


def test_who_joins_a_flight_is_not_asked_how_long_it_takes(ledger: Ledger) -> None:
    """It costs nothing, and brings its flight forward."""
    a_backlog(ledger)
    ledger.accept(features={"same": 1}, timeout_ms=60_000, priority=Priority.LOW)
    same = Submission("m", {"same": 1}, timeout_ms=2000, priority=Priority.LOW)
    (answer,) = ledger.run(ledger.producing.accept([same]))
    assert isinstance(answer, Accepted)
    assert answer.joined


def test_an_api_key_sends_at_its_rate(make_ledger: LedgerMaker) -> None:
    ledger = make_ledger(tenant_rate="10")
    for tenant in (b"a" * 8, b"b" * 8):
        accepted = 0
        while isinstance(answer := submit(ledger, tenant=tenant), Accepted):
            accepted += 1
        assert isinstance(answer, RateLimited)
        assert answer.retry_after_s == 1
        assert accepted >= 10, "a second's worth may come at once, and what the test's own time earns"
    ledger.turn_clock(1)
    assert isinstance(submit(ledger, tenant=b"a" * 8), Accepted)
    assert all(isinstance(submit(ledger), Accepted) for _ in range(30)), "without a key there is no limit"


def test_an_api_key_has_so_many_unfinished_requests(make_ledger: LedgerMaker) -> None:
    """Whatever their ends: each makes room for one more, once."""
    ledger = make_ledger(tenant_in_flight="4")
    tenant = b"a" * 8
    worker = ledger.worker()

    def fill() -> list[bytes]:
        new = []
        while isinstance(answer := submit(ledger, tenant=tenant, timeout_ms=1000), Accepted):
            new.append(answer.id)
        assert isinstance(answer, RateLimited)
        return new

    first = fill()
    assert len(first) == 4
    assert isinstance(submit(ledger, tenant=b"b" * 8), Accepted)
    ledger.run(ledger.producing.cancel(first[0]))
    assert len(fill()) == 1
    batch = ledger.claim(worker, limit=1)
    assert batch is not None
    ledger.settle(worker, batch, [dead()])
    assert len(fill()) == 1
    ledger.turn_clock(2)
    assert ledger.sweeping.expire_deadlines() == 4
    assert len(fill()) == 4
    ledger.turn_clock(2)
    ledger.sweeping.expire_deadlines()
    ledger.run(ledger.letters.replay(batch.works[0].id))
    assert len(fill()) == 3, "a replayed one is unfinished again"


def test_cached_answers_take_no_place(make_ledger: LedgerMaker) -> None:
    ledger = make_ledger(tenant_in_flight="1")
    tenant, worker = b"a" * 8, ledger.worker()
    (_,) = ledger.accept(features={"same": 1}, tenant=tenant)
    ledger.pass_stages(worker, *Stage)
    for _ in range(3):
        ledger.run(ledger.producing.accept([Submission("m", {"same": 1}, tenant=tenant)]))
    assert ledger.client.hget(f"{TAG}owned", tenant) is None, "of none there is no field"
    ledger.accept(tenant=tenant)


def test_in_degraded_mode_low_priority_is_refused_and_stages_have_more_time(ledger: Ledger) -> None:
    assert ledger.sweeping.lead("one", degraded=True).leads
    refused = submit(ledger, priority=Priority.LOW)
    assert isinstance(refused, Degraded)
    assert "fewer than half" in refused.detail
    assert isinstance(submit(ledger), Accepted)
    incarnation = Incarnation("preprocess", "preprocess", "cpu")
    incarnation.register(ledger.client)
    Heartbeat(incarnation, ledger.client, ledger.settings).beat()
    assert incarnation.degraded, "its worker knows, and gives batches more time"
    ledger.client.delete(f"{TAG}leader")
    assert ledger.sweeping.lead("another")[:2] == (True, True), "who leads next finds it so"
    assert isinstance(submit(ledger, priority=Priority.LOW), Degraded)
    assert ledger.sweeping.lead("another")[:2] == (True, False)
    Heartbeat(incarnation, ledger.client, ledger.settings).beat()
    assert not incarnation.degraded
    assert isinstance(submit(ledger, priority=Priority.LOW), Accepted)


def test_in_degraded_mode_an_answer_that_is_there_is_given(ledger: Ledger) -> None:
    worker = ledger.worker()
    ledger.accept(features={"same": 1})
    ledger.pass_stages(worker, *Stage)
    ledger.accept(features={"other": 1})
    assert ledger.sweeping.lead("one", degraded=True).leads
    ledger.accept(features={"other": 1}, priority=Priority.LOW)
    (answer,) = ledger.run(ledger.producing.accept([Submission("m", {"same": 1}, Priority.LOW)]))
    assert isinstance(answer, Known)


def retries(ledger: Ledger, worker: Claims, count: int, outcome: RetryLater = LATER) -> None:
    ledger.accept(count)
    batch = ledger.claim(worker)
    assert batch is not None
    ledger.settle(worker, batch, [outcome] * count)


def test_beyond_the_budget_retries_wait_and_use_up_no_attempt(ledger: Ledger) -> None:
    worker = ledger.worker()
    retries(ledger, worker, 15)
    assert ledger.sweeping.requeue_due_retries() == (15, 5)
    assert ledger.sweeping.requeue_due_retries() == (0, 0), "they look again when there is room"
    batch = ledger.claim(worker)
    assert batch is not None
    assert len(batch.works) == 10
    assert {work.attempts.starts for work in batch.works} == {1}
    ledger.turn_clock(9)
    assert ledger.sweeping.requeue_due_retries() == (0, 0), "ten seconds are not over"
    ledger.turn_clock(2)
    assert ledger.sweeping.requeue_due_retries() == (5, 0)
    batch = ledger.claim(worker)
    assert batch is not None
    assert {work.attempts.starts for work in batch.works} == {1}


def test_the_budget_grows_with_first_attempts(ledger: Ledger) -> None:
    worker, leader = a_worker(ledger), Leader(ledger)
    leader.look()
    ledger.accept(100)
    work_off(ledger, worker, 100)
    leader.look()
    retries(ledger, worker, 40)
    assert ledger.sweeping.requeue_due_retries() == (40, 20), "20 % of 100"


def test_what_waits_for_something_outside_is_not_on_the_budget(ledger: Ledger) -> None:
    worker = ledger.worker()
    retries(ledger, worker, 40, RetryLater(0, Attempts(), charged=False))
    assert ledger.sweeping.requeue_due_retries() == (40, 0)


def test_a_document_tells_how_many_wait_before_it_and_when_it_ends(ledger: Ledger) -> None:
    ledger.accept()
    for stage in Stage:
        work_off(ledger, a_worker(ledger, stage), 1, stage)
    leader = a_backlog(ledger)
    (low,), (high,) = ledger.accept(priority=Priority.LOW), ledger.accept(priority=Priority.HIGH)
    status = ledger.read(low, high)
    assert [each["position"] for each in status] == [151, 0]
    assert status[0]["eta_s"] == pytest.approx(151 / 50, abs=0.2)
    assert status[1]["eta_s"] == pytest.approx(0, abs=0.2)
    batch = ledger.claim(a_worker(ledger), limit=1)
    assert batch is not None
    assert ledger.read(high)[0]["position"] is None, "it is claimed"
    ledger.complete(a_worker(ledger), batch)
    assert ledger.read(high)[0]["position"] == 0
    ledger.run(ledger.producing.cancel(high))
    (ended,) = ledger.read(high)
    assert (ended["state"], ended["position"], ended["eta_s"]) == (State.CANCELLED, None, None)
    ledger.turn_clock(10)
    leader.look()
    assert ledger.read(low)[0]["eta_s"] is None, "no worker lives: nobody knows"


def test_what_waits_to_be_tried_again_has_no_estimate(ledger: Ledger) -> None:
    workers, leader = {stage: a_worker(ledger, stage) for stage in Stage}, Leader(ledger)
    ledger.accept()
    for stage, worker in workers.items():
        work_off(ledger, worker, 1, stage)
    for _ in range(2):
        leader.look()
    (request_id,) = ledger.accept()
    assert ledger.read(request_id)[0]["eta_s"] is not None
    batch = ledger.claim(workers[Stage.PREPROCESS])
    assert batch is not None
    ledger.settle(
        workers[Stage.PREPROCESS], batch, [RetryLater(30_000, Attempts().charge(1, "preprocess", "unknown", "boom"))]
    )
    status = ledger.read(request_id)[0]
    assert (status["position"], status["eta_s"]) == (None, None)


def test_a_lane_that_has_become_fast_is_not_held_to_what_it_did_when_it_was_slow(ledger: Ledger) -> None:
    leader, worker = a_backlog(ledger), a_worker(ledger)
    while batch := ledger.claim(worker):
        ledger.complete(worker, batch)
    leader.look()
    ledger.accept(120)
    work_off(ledger, worker, 120)
    leader.look()
    ledger.accept(120)
    leader.look()
    assert isinstance(submit(ledger, timeout_ms=2000, priority=Priority.LOW), Accepted), "it did 120 in a second"


def test_what_waited_for_something_outside_is_no_first_attempt(ledger: Ledger) -> None:
    worker, leader = a_worker(ledger), Leader(ledger)
    ledger.accept(40)
    leader.look()
    for _ in range(5):
        batch = ledger.claim(worker)
        assert batch is not None
        ledger.settle(worker, batch, [RetryLater(0, Attempts(), charged=False)] * 40)
        leader.look()
        assert ledger.sweeping.requeue_due_retries() == (40, 0)
    leader.look()
    (firsts,) = ledger.client.hvals(f"{TAG}firsts")
    assert int(firsts) <= 40


def test_a_flood_of_low_delays_high_by_the_running_batch_alone(ledger: Ledger) -> None:
    worker = ledger.worker()
    for _ in range(4):
        ledger.accept(100, priority=Priority.LOW)
    running = ledger.claim(worker)
    assert running is not None
    (high,) = ledger.accept(priority=Priority.HIGH)
    following = ledger.complete(worker, running, claim_next=64)
    assert following is not None
    assert following.works[0].id == high
