"""What earlier releases, or scripts that were stopped on their way, have left behind: found, and brought to its end."""

import pytest
import redis

from pipeline.contracts.problems import NotDead
from pipeline.contracts.stages import Stage
from pipeline.ledger import keys
from pipeline.ledger.keys import TAG
from pipeline.ledger.producers.notifications import Notifications
from pipeline.ledger.producers.submissions import Accepted, Known, Submission, SubmissionBatch, idempotency
from pipeline.ledger.recovery import release_claims
from pipeline.ledger.scripts import Scripts
from pipeline.ledger.sweeper.repairs import Repairs
from pipeline.store.connection import connect, connect_async
from tests.conformance.conftest import Ledger, LedgerMaker, dead

LANE = f"{TAG}q:"


def look_twice(ledger: Ledger) -> int:
    repairs = Repairs(ledger.client, ledger.settings)
    return repairs.recover_orphans() + repairs.recover_orphans()


def pointer(ledger: Ledger) -> bytes:
    (key,) = ledger.client.scan_iter(f"{TAG}f:*")
    return key


def test_no_end_but_success_is_given_again(ledger: Ledger) -> None:
    """A cancel that was stopped on its way left the pointer of its input."""
    (first,) = ledger.accept(features={"n": 1})
    key, value = pointer(ledger), ledger.client.get(pointer(ledger))
    ledger.run(ledger.producing.cancel(first))
    ledger.client.set(key, value)
    (second,) = ledger.accept(features={"n": 1})
    assert ledger.states(first, second) == ["cancelled", "queued"]
    ledger.pass_stages(ledger.worker(), *Stage)
    assert ledger.states(second) == ["succeeded"]


def test_a_pointer_to_what_was_never_accepted_is_not_believed(ledger: Ledger) -> None:
    (first,) = ledger.accept(features={"n": 1})
    key, value = pointer(ledger), ledger.client.get(pointer(ledger))
    ledger.run(ledger.producing.cancel(first))
    ledger.client.set(key, b"\0" * 16 + value[16:])
    (second,) = ledger.accept(features={"n": 1})
    ledger.pass_stages(ledger.worker(), *Stage)
    assert ledger.states(second) == ["succeeded"]
    ledger.client.set(key, b"\0" * 16 + value[16:])
    ledger.scrub()
    assert not ledger.client.exists(key)


def test_a_key_that_stands_for_nothing_is_not_known(ledger: Ledger) -> None:
    key = idempotency("", "order", "m", {"n": 1}, "normal", 1.0)
    ledger.client.set(f"{TAG}k:".encode() + key[:16], b"\0" * 16 + key[16:])
    (answer,) = ledger.run(ledger.producing.accept([Submission("m", {"n": 1}, key=key)]))
    assert isinstance(answer, Accepted)
    (again,) = ledger.run(ledger.producing.accept([Submission("m", {"n": 1}, key=key)]))
    assert again == Known(answer.id)


def test_a_batch_that_stands_nowhere_waits_again(ledger: Ledger) -> None:
    """As settle of earlier releases left it, if it was stopped after its claim was gone."""
    worker = ledger.worker()
    ids = ledger.accept(3)
    ledger.pass_stages(worker, Stage.PREPROCESS)
    ledger.claim(worker, Stage.SCORING)
    ledger.client.delete(keys.claims("w1"))
    assert Repairs(ledger.client, ledger.settings).recover_orphans() == 0, "one look may come between two commands"
    assert look_twice(ledger) == 3
    ledger.pass_stages(worker, Stage.SCORING, Stage.POSTPROCESS)
    assert ledger.states(*ids) == ["succeeded"] * 3


def test_a_joined_flight_that_stands_nowhere_waits_again(ledger: Ledger) -> None:
    worker = ledger.worker()
    ids = [*ledger.accept(features={"n": 1}), *ledger.accept(features={"n": 1})]
    ledger.pass_stages(worker, Stage.PREPROCESS, Stage.SCORING)
    ledger.client.delete(LANE + ledger.lane(Stage.POSTPROCESS).name)
    assert look_twice(ledger) == 1
    ledger.pass_stages(worker, Stage.POSTPROCESS)
    assert ledger.states(*ids) == ["succeeded"] * 2


def test_what_stands_somewhere_is_left_there(ledger: Ledger) -> None:
    worker = ledger.worker()
    ledger.accept(2)
    ledger.pass_stages(worker, Stage.PREPROCESS)
    ledger.claim(worker, Stage.SCORING)
    ledger.accept(2)
    ledger.pass_stages(worker, Stage.PREPROCESS, Stage.SCORING)
    assert look_twice(ledger) == ledger.scrub() == 0


def test_a_request_that_has_left_without_an_end_is_computed(ledger: Ledger) -> None:
    """As on a server without MSETEX: taken out of `open`, and then its record could not be written."""
    worker = ledger.worker()
    ids = ledger.accept(2)
    ledger.pass_stages(worker, Stage.PREPROCESS, Stage.SCORING)
    ledger.claim(worker, Stage.POSTPROCESS)
    ledger.client.zrem(keys.OPEN, *ids)
    ledger.client.delete(keys.claims("w1"))
    assert ledger.scrub() == 2
    ledger.pass_stages(worker, Stage.POSTPROCESS)
    assert ledger.states(*ids) == ["succeeded"] * 2


def test_a_request_that_has_ended_without_leaving_leaves(ledger: Ledger) -> None:
    (request_id,) = ledger.accept()
    ledger.run(ledger.producing.cancel(request_id))
    ledger.client.zadd(keys.OPEN, {request_id: 1 << 50})
    ledger.client.persist(keys.record(request_id))
    ledger.scrub()
    assert ledger.client.zcard(keys.OPEN) == 0
    assert ledger.client.pttl(keys.record(request_id)) > 0
    assert ledger.states(request_id) == ["cancelled"]


def test_a_claim_that_nobody_can_read_keeps_no_other(ledger: Ledger) -> None:
    worker = ledger.worker()
    ids = ledger.accept(2)
    ledger.claim(worker)
    ledger.client.hset(keys.claims("w1"), "0:0", "rubbish")
    assert release_claims(ledger.scripts, "w1", charge="loss", reason="gone") == 2
    assert not ledger.client.exists(keys.claims("w1"))
    ledger.pass_stages(worker, *Stage)
    assert ledger.states(*ids) == ["succeeded"] * 2


@pytest.mark.parametrize("attempts", [b"rubbish", b"7", b"[]", b"{}", b'{"starts": "x"}', b'{"starts": 1}'])
def test_attempts_that_nobody_can_read_keep_no_other(ledger: Ledger, attempts: bytes) -> None:
    worker = ledger.worker()
    ids = ledger.accept(3, timeout_ms=60_000)
    ledger.claim(worker)
    ledger.client.hset(keys.ATTEMPTS, ids[1], attempts)
    assert release_claims(ledger.scripts, "w1", charge="start", reason="died") == 3
    ledger.client.hset(keys.ATTEMPTS, ids[1], attempts)
    ledger.turn_clock(61)
    assert ledger.sweeping.expire_deadlines() == 3
    assert ledger.states(*ids) == ["expired"] * 3


@pytest.mark.spoils
@pytest.mark.parametrize("make_ledger", ["valkey"], indirect=True)
def test_one_that_cannot_be_ended_keeps_no_other(make_ledger: LedgerMaker) -> None:
    ledger = make_ledger()
    ids = ledger.accept(3, timeout_ms=60_000)
    ledger.client.delete(keys.record(ids[0]))
    ledger.client.lpush(keys.output(ids[1]), "of another type")
    ledger.client.delete(keys.record(ids[1]))
    ledger.client.lpush(keys.record(ids[1]), "of another type")
    ledger.turn_clock(61)
    assert ledger.sweeping.expire_deadlines() >= 2
    assert ledger.states(ids[0], ids[2]) == ["expired", "expired"]
    ledger.client.delete(keys.record(ids[1]), keys.output(ids[1]))


def test_a_release_takes_no_more_than_a_scripts_share_at_once(ledger: Ledger) -> None:
    worker = ledger.worker()
    for _ in range(3):
        ledger.accept(100)
        ledger.claim(worker, limit=100)
    one = ["w1", "", "none", "", "", 0, "0", "crash", "", ""]
    assert [ledger.scripts.release(args=one) for _ in range(3)] == [[200, 1], [100, 0], [0, 0]]


def test_an_older_letter_is_not_replayed(ledger: Ledger) -> None:
    worker = ledger.worker()
    (request_id,) = ledger.accept()
    ledger.settle(worker, ledger.claim(worker), [dead()])
    older = ledger.run(ledger.letters.get(request_id))
    ledger.turn_clock(1)
    ledger.run(ledger.letters.replay(request_id))
    ledger.turn_clock(1)
    ledger.settle(worker, ledger.claim(worker), [dead()])
    arguments = ledger.run(ledger.letters._replay_arguments(older, [request_id]))
    assert ledger.scripts.replay(args=arguments) == [-1, 0]
    ledger.run(ledger.letters.replay(request_id))
    with pytest.raises(NotDead):
        ledger.run(ledger.letters.replay(request_id))
    ledger.pass_stages(worker, *Stage)
    assert ledger.states(request_id) == ["succeeded"]


@pytest.mark.parametrize("make_ledger", ["valkey"], indirect=True)
def test_what_the_leader_says_is_never_unsaid_in_between(make_ledger: LedgerMaker) -> None:
    """It can only be seen where the second of the two commands is refused."""
    ledger = make_ledger()
    assert ledger.sweeping.lead("one", shortage="memory_full").leads
    admin = redis.Redis.from_url(ledger.settings.store_url)
    with admin.monitor() as monitor:
        assert ledger.sweeping.lead("one", shortage="memory_full").leads
        sent = []
        for command in monitor.listen():
            sent.append(command["command"])
            if "EXISTS" in command["command"] and "degraded" in command["command"]:
                break
    assert any("SET" in command and f"{TAG}memory_full" in command for command in sent)
    assert not any("DEL" in command and f"{TAG}memory_full" in command for command in sent)


@pytest.mark.parametrize("make_ledger", ["valkey"], indirect=True)
def test_two_deployments_on_one_server_do_not_hear_each_other(make_ledger: LedgerMaker) -> None:
    ledger = make_ledger()
    settings = ledger.settings.model_copy(update={"store_url": ledger.settings.store_url[:-1] + "3"})
    client, async_client = connect(settings), connect_async(settings)
    client.flushdb()
    other = Ledger(client, async_client, client, async_client, settings, ledger.runner)

    async def heard() -> tuple[bool, bool]:
        ours, theirs = Notifications(ledger.async_client), Notifications(async_client)
        ours.start()
        theirs.start()
        await ours._ready.wait()
        await theirs._ready.wait()
        (request_id,) = [answer.id for answer in await other.producing.accept([Submission("m", {"n": 1})])]
        await other.producing.cancel(request_id)
        await theirs.wait([request_id], 10)
        known = request_id in theirs._heard, request_id in ours._heard
        await ours.stop()
        await theirs.stop()
        return known

    assert ledger.run(heard()) == (True, False)
    ledger.run(async_client.aclose())
    client.flushdb()


def test_a_parcel_that_was_stopped_is_accepted_once(ledger: Ledger) -> None:
    """Its ids are the dedup_token's, whatever was written before it was stopped."""
    submission_batch = SubmissionBatch([Submission("m", {"n": n}) for n in range(3)])
    first = ledger.run(ledger.producing.send(submission_batch))
    (dedup_token,) = ledger.client.scan_iter(f"{TAG}a:*")
    ledger.client.set(dedup_token, first[0].id[:6], px=120_000)  # as it is while it has not answered
    ledger.turn_clock(5)
    again = ledger.run(ledger.producing.send(submission_batch))
    assert [answer.id for answer in again] == [answer.id for answer in first]
    assert ledger.client.zcard(keys.OPEN) == 3
    ledger.pass_stages(ledger.worker(), *Stage)
    assert ledger.states(*(answer.id for answer in first)) == ["succeeded"] * 3


@pytest.mark.parametrize("make_ledger", ["valkey"], indirect=True)
def test_waiting_workers_get_one_batch_a_script(make_ledger: LedgerMaker) -> None:
    """However many lanes a release rings, one script hands out one batch; the other workers are woken to claim."""
    ledger = make_ledger()
    scripts = Scripts(ledger.client)
    holder = ledger.worker("holder")
    ledger.accept(8)
    while ledger.claim(holder, limit=2) is not None:
        pass
    for n in range(4):
        ledger.worker(f"idle{n}")
        assert scripts.park(args=[f"idle{n} 7:1 2 {ledger.lane().name}"]) == b"parked"
    release_claims(scripts, "holder", charge="none")
    handed = sum(ledger.client.hlen(keys.claims(f"idle{n}")) for n in range(4))
    woken = [ledger.client.lrange(keys.wake(f"idle{n}", "7:1"), 0, -1) for n in range(4)]
    assert handed == 1
    assert sorted(map(bool, woken)) == [True] * 4
