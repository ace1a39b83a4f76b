"""What the sweeper finds: the silent, the overdue, the late, lanes that nobody answers, memory that runs out."""

import pytest
from redis.exceptions import ResponseError

from pipeline.contracts.ids import to_text
from pipeline.contracts.problems import (
    StoreFull,
)
from pipeline.contracts.stages import Stage
from pipeline.ledger.keys import TAG
from pipeline.ledger.producers.submissions import Submission
from pipeline.ledger.recovery import claimed_batch
from pipeline.ledger.sweeper.repairs import Repairs
from pipeline.ledger.workers.claims import Fenced
from pipeline.sweeper.loop import Sweeper
from pipeline.telemetry.events.requests import TOLD
from tests.conformance.conftest import Ledger, LedgerMaker, SteppedClock, dead
from tests.support.emitted import emitted


def test_a_silent_worker_is_fenced_for_ever(make_ledger: LedgerMaker) -> None:
    ledger = make_ledger(lease_ttl_s="0.2", heartbeat_s="0.05")
    worker = ledger.worker("w1")
    ids = ledger.accept(2)
    assert ledger.claim(worker) is not None
    assert ledger.sweeping.release_dead_workers() == []
    ledger.client.zadd(f"{TAG}beats", {"w1": ledger.sweeping.server_ms() - 1000})
    assert ledger.sweeping.release_dead_workers() == [("w1", 2)]
    assert ledger.scripts.heartbeat(args=["w1", "{}", "0"]) == 0
    with pytest.raises(Fenced):
        ledger.claim(worker)
    assert ledger.client.zcard(f"{TAG}q:{ledger.lane().name}") == len(ids)
    renamed = ledger.worker("w2")
    assert ledger.claim(renamed) is not None


def test_claims_of_the_fenced_are_released_though_their_sweeper_died_before_it_came_to_that(ledger: Ledger) -> None:
    workers = [ledger.worker(name) for name in ("w1", "w2")]
    ledger.accept(2)
    for worker in workers:
        assert ledger.claim(worker, limit=1) is not None
    ledger.turn_clock(60)
    assert ledger.scripts.fence(args=[3000, "w1", "w2"]) == [b"w1", b"w2"]
    assert ledger.sweeping.release_dead_workers() == [("w1", 1), ("w2", 1)]
    assert ledger.sweeping.release_dead_workers() == []


@pytest.mark.parametrize("make_ledger", ["valkey"], indirect=True)
def test_after_an_outage_workers_have_a_lease_to_be_heard_of_again(make_ledger: LedgerMaker) -> None:
    ledger, clock = make_ledger(), SteppedClock()
    sweeper = Sweeper(ledger.client, ledger.settings, clock)
    worker = ledger.worker("w1")
    ledger.accept()
    batch = ledger.claim(worker)
    assert batch is not None

    def pass_time(seconds: float) -> None:
        clock.now += seconds
        ledger.turn_clock(seconds)

    sweeper.sweep()
    sweeper.store_was_away()
    pass_time(10)  # so long it was
    sweeper.sweep()
    assert ledger.scripts.heartbeat(args=["w1", "{}", "0"]) == 1
    pass_time(ledger.settings.lease_ttl_s - 1)
    sweeper.sweep()
    ledger.complete(worker, batch)
    pass_time(10)
    sweeper.sweep()
    assert ledger.scripts.heartbeat(args=["w1", "{}", "0"]) == 0, "and no longer"


@pytest.mark.parametrize("make_ledger", ["valkey"], indirect=True)
def test_a_store_that_fails_now_and_then_does_not_keep_the_claims_of_the_dead(make_ledger: LedgerMaker) -> None:
    """Each failed round lasts as long as an outage that would excuse silence; it is excused once."""
    ledger, clock = make_ledger(), SteppedClock()
    sweeper = Sweeper(ledger.client, ledger.settings, clock)
    (request_id,) = ledger.accept()
    ledger.claim(ledger.worker("w1"))
    sweeper.sweep()
    rounds = 0
    while ledger.states(request_id) == ["preprocessing"] and not ledger.client.zcard(f"{TAG}q:{ledger.lane().name}"):
        rounds += 1
        assert rounds < 10, "the claim of a dead worker is held for ever"
        sweeper.store_was_away()
        clock.now += 2.75
        ledger.turn_clock(2.75)
        sweeper.sweep()


@pytest.mark.parametrize("make_ledger", ["valkey"], indirect=True)
def test_a_clock_that_jumps_ahead_fences_no_living_worker(make_ledger: LedgerMaker) -> None:
    ledger, clock = make_ledger(), SteppedClock()
    sweeper = Sweeper(ledger.client, ledger.settings, clock)
    worker = ledger.worker("w1")
    ledger.accept()
    batch = ledger.claim(worker)
    assert batch is not None
    sweeper.sweep()
    ledger.turn_clock(7200)  # as far as two hours: no batch is overdue by it, either
    sweeper.sweep()
    assert ledger.scripts.heartbeat(args=["w1", "{}", "0"]) == 1
    clock.now += ledger.settings.lease_ttl_s
    sweeper.sweep()
    ledger.complete(worker, batch)  # not ClaimLost


def test_time_that_was_added_to_the_clock_is_taken_back(ledger: Ledger) -> None:
    """The server's clock went back by ten seconds: the ledger's time runs on, a fifth slower until it is the same."""
    ledger.turn_clock(10)
    behind = [ledger.sweeping.lead("one", passed_s=0).behind_ms]
    while behind[-1]:
        ledger.client.delete(f"{TAG}clock")  # the seconds have passed: the time is later than what was seen
        behind.append(ledger.sweeping.lead("one", passed_s=1).behind_ms)
    assert behind == list(range(10_000, -1, -200))


def test_a_fenced_worker_that_holds_claims_is_not_forgotten(ledger: Ledger) -> None:
    (request_id,) = ledger.accept()
    ledger.claim(ledger.worker("w1"))
    ledger.turn_clock(10)
    assert ledger.scripts.fence(args=[3000, "w1"]) == [b"w1"]
    ledger.turn_clock(700)
    ledger.sweeping.forget_dead_workers()
    assert ledger.sweeping.release_dead_workers() == [("w1", 1)]
    ledger.turn_clock(700)
    ledger.sweeping.forget_dead_workers()
    assert ledger.client.zcard(f"{TAG}beats") == 0
    assert ledger.states(request_id) == ["preprocessing"]


def test_claims_of_a_worker_that_nobody_knows_are_released(ledger: Ledger) -> None:
    (request_id,) = ledger.accept()
    ledger.claim(ledger.worker("w1"))
    ledger.client.zrem(f"{TAG}beats", "w1")
    repairs = Repairs(ledger.client, ledger.settings)
    assert repairs.scrub() == 1
    ledger.pass_stages(ledger.worker("w2"), *Stage)
    assert ledger.states(request_id) == ["succeeded"]


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


def test_where_one_bell_was_lost_the_next_stages_are_rung_as_soon_as_they_have_work(ledger: Ledger) -> None:
    worker = ledger.worker()
    ledger.accept(2)
    batch = ledger.claim(worker, limit=1)
    assert batch is not None
    ledger.complete(worker, batch)
    assert ledger.bells("scoring") == 1
    ledger.client.delete(f"{TAG}preprocess", f"{TAG}scoring")
    ledger.turn_clock(60)
    assert ledger.sweeping.ring_idle(ledger.lane().name) == "rung"
    batch = ledger.claim(worker)
    assert batch is not None
    ledger.complete(worker, batch)
    assert ledger.bells("scoring") == 1


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


@pytest.mark.parametrize("make_ledger", ["valkey"], indirect=True)
def test_a_new_leader_leaves_batches_alone_that_may_have_begun_with_longer_limits(make_ledger: LedgerMaker) -> None:
    ledger = make_ledger()
    worker = ledger.worker("w1")
    ledger.accept()
    assert ledger.claim(worker) is not None
    ledger.turn_clock(200)  # past twice the hard limit of 90 s (it may have waited for another), not past four times
    ledger.scripts.heartbeat(args=["w1", "{}", "0"])
    Sweeper(ledger.client, ledger.settings, SteppedClock()).sweep()
    assert ledger.client.hlen(f"{TAG}c:w1") == 1
    assert ledger.sweeping.release_overdue_batches() == 1, "with the usual limits it would be too late"


def test_one_sweeper_leads(ledger: Ledger) -> None:
    assert ledger.sweeping.lead("one").leads
    assert not ledger.sweeping.lead("two").leads
    assert ledger.sweeping.lead("one").leads
    ledger.client.delete(f"{TAG}leader")
    assert ledger.sweeping.lead("two").leads


def test_nothing_is_accepted_while_the_store_is_short_of_memory(ledger: Ledger) -> None:
    (before,) = ledger.accept()
    assert ledger.sweeping.lead("one", shortage="memory_full").leads
    (refused,) = ledger.run(ledger.producing.accept([Submission("m", {})]))
    assert isinstance(refused, StoreFull)
    worker = ledger.worker()
    ledger.pass_stages(worker, *Stage)
    assert ledger.states(before) == ["succeeded"]
    assert ledger.sweeping.lead("one").leads
    ledger.accept()


def test_letters_age_out_though_nothing_dies(make_ledger: LedgerMaker) -> None:
    ledger = make_ledger(dead_max_age="3600")
    worker = ledger.worker()
    ledger.accept()
    batch = ledger.claim(worker)
    assert batch is not None
    ledger.settle(worker, batch, [dead()])
    ledger.sweeping.trim_dead_letters()
    assert ledger.client.zcard(f"{TAG}dead") == 1
    ledger.turn_clock(3601)
    ledger.sweeping.trim_dead_letters()
    assert ledger.client.zcard(f"{TAG}dead") == 0


@pytest.mark.parametrize("make_ledger", ["valkey"], indirect=True)
def test_at_the_memory_limit_all_that_is_accepted_ends(ledger: Ledger) -> None:
    worker, client = ledger.worker(), ledger.client
    ids = ledger.accept(100)
    client.config_set("maxmemory", client.info("memory")["used_memory"] - 1000)
    try:
        assert ledger.sweeping.shortage() == "memory_full"
        with pytest.raises(StoreFull):
            ledger.run(ledger.producing.accept([Submission("m", {})]))
        assert ledger.sweeping.lead("one", shortage="memory_full").leads
        for stage in Stage:
            while batch := ledger.claim(worker, stage):
                ledger.complete(worker, batch)
        assert set(ledger.states(*ids)) == {"succeeded"}
    finally:
        client.config_set("maxmemory", 0)


@pytest.mark.parametrize("make_ledger", ["valkey"], indirect=True)
def test_the_second_is_counted_from_the_last_claim_and_not_from_the_last_look(make_ledger: LedgerMaker) -> None:
    ledger, clock = make_ledger(lane_idle_s="1"), SteppedClock()
    sweeper = Sweeper(ledger.client, ledger.settings, clock)

    def later(seconds: float) -> None:
        clock.now += seconds
        ledger.turn_clock(seconds)
        sweeper.sweep()

    ledger.accept(2)
    sweeper.sweep()
    later(0.5)
    ledger.claim(ledger.worker(), limit=1)
    ledger.client.delete(f"{TAG}preprocess")
    later(0.5)
    assert ledger.bells() == 0, "it was claimed from half a second ago"
    later(0.5)
    assert ledger.bells() == 1


@pytest.mark.parametrize("make_ledger", ["valkey"], indirect=True)
def test_one_step_that_fails_keeps_no_other_from_its_work(
    make_ledger: LedgerMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = make_ledger()
    sweeper = Sweeper(ledger.client, ledger.settings)
    (request_id,) = ledger.accept(timeout_ms=1000)
    ledger.turn_clock(2)

    def fails() -> None:
        raise ResponseError("a script that was never meant to fail")

    monkeypatch.setattr(sweeper._sweeping, "fan_out_flights", fails)
    sweeper.sweep()
    assert ledger.states(request_id) == ["expired"]


def test_dead_names_are_forgotten_some_time_after_their_death(ledger: Ledger) -> None:
    ledger.worker("old")
    ledger.turn_clock(3600)
    ledger.sweeping.release_dead_workers()
    ledger.sweeping.forget_dead_workers()
    assert ledger.client.zscore(f"{TAG}beats", "old") < 0, "it died a moment ago, however long it lived"
    ledger.turn_clock(601)
    ledger.sweeping.forget_dead_workers()
    assert ledger.client.zscore(f"{TAG}beats", "old") is None
    assert not ledger.client.hexists(f"{TAG}workers", "old")


def test_expired_requests_are_told_by_id_and_not_thousands_at_once(ledger: Ledger) -> None:
    ids = ledger.accept(count=TOLD + 3, timeout_ms=1)
    ledger.turn_clock(1)
    with emitted() as events:
        assert ledger.sweeping.expire_deadlines() == TOLD + 3
    *expired, left_out = events
    assert {event.values()["request_id"] for event in expired} <= {to_text(request_id) for request_id in ids}
    assert (len(expired), left_out.values()["requests"]) == (TOLD, 3)
    assert {event.name for event in expired} == {"request_expired"}


def test_a_batch_that_is_held_is_known_by_its_lane_and_ids(ledger: Ledger) -> None:
    ids = ledger.accept(count=3)
    batch = ledger.claim(ledger.worker("w1"))
    assert batch is not None
    lane, held = claimed_batch(ledger.client, "w1", batch.field)
    assert (lane, sorted(held)) == (batch.lane.label, sorted(map(to_text, ids)))
    assert claimed_batch(ledger.client, "w1", "none") == ("", [])
