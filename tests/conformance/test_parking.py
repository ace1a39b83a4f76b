"""Parked workers: wakes instead of bells, batches handed over, and what happens when a parked worker dies."""

import os

from pipeline.contracts.lanes import Lane, parse_lane
from pipeline.contracts.stages import Stage
from pipeline.ledger.keys import TAG
from pipeline.ledger.recovery import release_claims
from pipeline.ledger.workers.batch import Batch
from pipeline.ledger.workers.claims import Claims
from pipeline.worker.heartbeat import Heartbeat
from pipeline.worker.incarnation import Incarnation
from tests.conformance.conftest import Ledger, LedgerMaker


def entry(name: str, field: str, lane: Lane, limit: int = 64) -> str:
    return f"{name} {field} {limit} {lane.name}"


def test_a_parked_worker_is_woken_instead_of_a_bell(ledger: Ledger) -> None:
    ledger.worker("w1")
    other = parse_lane("preprocess/other@1#" + "b" * 64)
    assert ledger.scripts.park(args=[entry("w1", "7:1", other)]) == b"parked"
    ledger.accept()
    assert ledger.bells() == 0
    woken = ledger.client.lrange(f"{TAG}wake:w1:7:1", 0, -1)
    assert woken == [ledger.lane().name.encode()], "it parked after another lane's work: it claims for itself"
    assert ledger.scripts.unpark(args=[entry("w1", "7:1", other)]) == 0, "a wake was under way"


def test_a_worker_parked_after_work_of_the_lane_finds_its_batch_in_the_wake(ledger: Ledger) -> None:
    worker = ledger.worker("w1")
    (first,) = ledger.accept()
    batch = ledger.claim(worker)
    assert batch is not None
    assert ledger.complete(worker, batch, claim_next=2) is None
    assert worker.parked
    ids = ledger.accept(3)
    assert ledger.bells() == 2, "the first bell, and one for the third request"
    handed = worker.park(ledger.lane(), 2, 1)
    assert isinstance(handed, Batch)
    assert [work.id for work in handed.works] == ids[:2]
    assert [work.body for work in handed.works] == [[1], [2]], "named by their model's schema"
    ledger.complete(worker, handed)
    assert ledger.states(first, *ids) == ["scoring"] * 3 + ["queued"]


def parked_worker(ledger: Ledger, name: str) -> Claims:
    """A worker that has parked after work of the first lane."""
    worker = ledger.worker(name)
    ledger.accept()
    batch = ledger.claim(worker)
    assert batch is not None
    ledger.complete(worker, batch, claim_next=64)
    assert worker.parked
    return worker


def test_a_worker_that_leaves_an_empty_lane_rings_its_successor(ledger: Ledger) -> None:
    lane, leaving, following = ledger.lane(), ledger.worker("w1"), ledger.worker("w2")
    (first,) = ledger.accept()
    batch = ledger.claim(leaving)
    assert batch is not None
    ledger.complete(leaving, batch, claim_next=0)
    assert ledger.bells() == 1, "that of the first request"
    leaving.ring_successor(lane)
    leaving.ring_successor(lane)
    assert ledger.bells() == 2, "one bell until it is answered"
    assert following.claim(lane, 64, answers_bell=True) is None
    assert ledger.scripts.park(args=[entry("w2", "7:1", lane)]) == b"parked"
    leaving.ring_successor(lane)
    assert ledger.bells() == 2, "somebody stands ready"
    (second,) = ledger.accept()
    assert ledger.bells() == 2
    assert ledger.client.lrange(f"{TAG}wake:w2:7:1", 0, 0) == [lane.name.encode()]
    assert ledger.states(first, second) == ["scoring", "preprocessing"]


def test_the_fenced_are_passed_over(ledger: Ledger) -> None:
    alive = parked_worker(ledger, "alive")
    entries = ledger.client.lrange(f"{TAG}idle:preprocess", 0, -1)
    for name in ("w1", "w2", "w3"):
        ledger.worker(name)
        ledger.scripts.park(args=[entry(name, "1:1", ledger.lane())])
        release_claims(ledger.scripts, name, charge="loss", fence=True)
    bells = ledger.bells()
    (second,) = ledger.accept()
    assert ledger.bells() == bells
    handed = alive.park(ledger.lane(), 64, 1)
    assert isinstance(handed, Batch)
    assert [work.id for work in handed.works] == [second]
    assert entries
    assert ledger.client.llen(f"{TAG}idle:preprocess") == 0


def test_when_all_parked_workers_are_fenced_a_bell_is_sent(ledger: Ledger) -> None:
    worker = parked_worker(ledger, "w1")
    release_claims(ledger.scripts, "w1", charge="loss", fence=True)
    bells = ledger.bells()
    (second,) = ledger.accept()
    assert ledger.bells() == bells + 1
    assert ledger.client.zscore(f"{TAG}q:{ledger.lane().name}", second)
    assert worker.park(ledger.lane(), 64, 0.01) is None


def test_what_dead_workers_held_is_not_handed_to_the_next_dead_one(make_ledger: LedgerMaker) -> None:
    ledger = make_ledger(max_losses="3")
    names = [f"w{number}" for number in range(5)]
    for name in names:
        ledger.worker(name)
        ledger.scripts.park(args=[entry(name, "1:1", ledger.lane())])
    (request_id,) = ledger.accept()
    for name in names:
        ledger.client.zadd(f"{TAG}beats", {name: ledger.sweeping.server_ms() - 60_000})
    assert sum(released for _, released in ledger.sweeping.release_dead_workers()) == 1
    batch = ledger.claim(ledger.worker("alive"))
    assert batch is not None
    assert [(work.id, work.attempts.losses) for work in batch.works] == [(request_id, 1)]


def test_a_child_that_had_begun_nothing_is_not_charged(ledger: Ledger) -> None:
    parked_worker(ledger, "w1")
    (request_id,) = ledger.accept()
    release_claims(ledger.scripts, "w1", charge="start", pid=os.getpid(), running="none", queue="preprocess")
    batch = ledger.claim(ledger.worker("w2"))
    assert batch is not None
    assert [(work.id, work.attempts.starts, work.attempts.suspect) for work in batch.works] == [(request_id, 0, False)]


def test_a_worker_that_signs_off_gives_back_what_it_was_handed(ledger: Ledger) -> None:
    incarnation = Incarnation("preprocess", "preprocess", "cpu")
    parked_worker(ledger, incarnation.name)
    (request_id,) = ledger.accept()
    Heartbeat(incarnation, ledger.client, ledger.settings).sign_off("preprocess")
    assert ledger.client.zscore(f"{TAG}beats", incarnation.name) is None
    batch = ledger.claim(ledger.worker("w2"))
    assert batch is not None
    assert [work.id for work in batch.works] == [request_id]


def test_a_dead_name_stays_dead_for_the_next_child(ledger: Ledger) -> None:
    ledger.worker("w1")
    release_claims(ledger.scripts, "w1", charge="loss", fence=True)
    assert ledger.scripts.heartbeat(args=["w1", "{}", "1"]) == 0


def test_what_was_claimed_for_a_worker_that_is_gone_is_given_back_uncharged(ledger: Ledger) -> None:
    worker, pid = ledger.worker("w1"), os.getpid()
    ledger.accept()
    batch = ledger.claim(worker)
    assert batch is not None
    ledger.complete(worker, batch, claim_next=64)
    (second,) = ledger.accept()
    (field,) = ledger.client.hkeys(f"{TAG}c:w1")
    released = release_claims(
        ledger.scripts, "w1", charge="start", pid=pid, running=batch.field, queue="preprocess", signal="SIGKILL"
    )
    assert released == 1
    assert field != batch.field
    again = ledger.claim(ledger.worker("w2"))
    assert again is not None
    assert (again.works[0].id, again.works[0].attempts.starts) == (second, 0)


def test_a_worker_whose_process_is_gone_is_taken_off_the_list(ledger: Ledger) -> None:
    ledger.worker("w1")
    for pid in (7, 77):
        assert ledger.scripts.park(args=[entry("w1", f"{pid}:1", ledger.lane())]) == b"parked"
    release_claims(ledger.scripts, "w1", charge="start", pid=7, queue="preprocess")
    (left,) = ledger.client.lrange(f"{TAG}idle:preprocess", 0, -1)
    assert left.startswith(b"w1 77:1 ")
    release_claims(ledger.scripts, "w1", charge="none", queue="preprocess")
    assert not ledger.client.exists(f"{TAG}idle:preprocess")


def test_a_wake_that_got_lost_strands_no_batch(ledger: Ledger) -> None:
    worker = ledger.worker("w1")
    ledger.accept()
    batch = ledger.claim(worker)
    assert batch is not None
    ledger.complete(worker, batch, claim_next=64)
    (second,) = ledger.accept()
    ledger.client.delete(*ledger.client.keys(f"{TAG}wake:*"))
    assert worker.park(ledger.lane(), 64, 0.01) is None
    again = ledger.claim(worker)
    assert again is not None
    assert again.works[0].id == second


def test_parking_sees_work_that_came_in_between(ledger: Ledger) -> None:
    worker = ledger.worker()
    ledger.accept()
    assert worker.park(ledger.lane(), 64, 0.01) == ledger.lane()
    ledger.claim(worker)
    assert worker.park(ledger.lane(), 64, 0.01) is None
    assert not ledger.client.exists(f"{TAG}idle:preprocess")


def test_no_worker_parks_while_another_lanes_bell_waits(ledger: Ledger) -> None:
    worker = ledger.worker()
    ours = entry("w1", "1:1", ledger.lane())
    ledger.client.lpush(f"{TAG}preprocess", b"a bell")
    ledger.client.sadd(f"{TAG}rung", ledger.lane().name, ledger.lane(Stage.SCORING).name)
    assert worker.park(ledger.lane(), 64, 0.01) is None
    assert ledger.scripts.park(args=[ours]) == b"parked", "the bell is its own lane's"
    assert ledger.scripts.unpark(args=[ours]) == 1
    ledger.client.sadd(f"{TAG}rung", "preprocess/other@1#" + "b" * 64)
    assert ledger.scripts.park(args=[ours]) == b"bell"
    assert worker.park(ledger.lane(), 64, 3) is None
    assert ledger.client.llen(f"{TAG}idle:preprocess") == 0
