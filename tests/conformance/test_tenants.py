"""Tenants: a request is its producer's alone, as are its cached answers; and each tenant's requests are counted."""

import asyncio
from typing import Any

import pytest

from pipeline.client import AsyncScoringClient
from pipeline.contracts.cache_keys import cache_keys
from pipeline.contracts.problems import AlreadyEnded, Gone, NotFound, Problem, RateLimited
from pipeline.contracts.stages import Stage, State
from pipeline.contracts.tenants import NOBODY, STORE, WITHOUT_KEYS, Caller, Role, tenant_of_digest
from pipeline.contracts.work import NO_ATTEMPTS, Completed, Ended, Output
from pipeline.ledger import keys
from pipeline.ledger.keys import TAG
from pipeline.ledger.producers.accept import Producing
from pipeline.ledger.producers.submissions import Accepted, Known, Submission, SubmissionBatch, idempotency
from pipeline.ledger.records import tenant_of
from pipeline.settings import read_settings
from tests.conformance.conftest import FAILURE, REF, Ledger, LedgerMaker, dead, to_text
from tests.conformance.test_cache import (
    HERE_AND_ELSEWHERE,
    RESULT,
    SAME,
    cached,
    elsewhere,
    forget_pointers,
    run_stages,
)

__all__ = ["cached"]  # a fixture

A, B = (tenant_of_digest(16 * digits) for digits in ("0a1b", "2c3d"))
OPERATORS = tenant_of_digest(16 * "4e5f")
ALICE, BOB, OPERATOR = Caller(A, Role.PRODUCER), Caller(B, Role.PRODUCER), Caller(OPERATORS, Role.OPERATOR)
OLD = b""
"""The tenant of what a release before tenants has accepted."""


def read(ledger: Ledger, caller: Caller, *ids: bytes) -> list[Any]:
    return ledger.run(ledger.producing.read(ids, [caller] * len(ids)))


def cancel(ledger: Ledger, caller: Caller, request_id: bytes) -> Any:
    return ledger.run(ledger.producing.cancel(request_id, caller))


def never_accepted(request_id: bytes) -> bytes:
    """An id of the same time that does not exist."""
    return request_id[:-1] + bytes([request_id[-1] ^ 1])


def same_problem(one: Problem, other: Problem, *ids: bytes) -> bool:
    """Whether two problems differ in nothing but the id that was asked for."""
    texts = [str(problem.document()) for problem in (one, other)]
    for request_id in ids:
        texts = [each.replace(to_text(request_id), "ID") for each in texts]
    return type(one) is type(other) and texts[0] == texts[1]


def owned(ledger: Ledger) -> dict[bytes, int]:
    return {tenant: int(count) for tenant, count in ledger.client.hgetall(f"{TAG}owned").items()}


@pytest.mark.parametrize("tenant", [A.id, NOBODY])
def test_a_record_says_whose_it_is_whether_keys_have_limits_or_not(ledger: Ledger, tenant: bytes) -> None:
    worker = ledger.worker()
    first, second = ledger.accept(features=SAME, tenant=tenant), ledger.accept(features=SAME, tenant=tenant)

    def tenants() -> set[bytes]:
        return {tenant_of(blob) for blob in ledger.client.mget([keys.record(each) for each in first + second])}

    assert tenants() == {tenant}
    for stage in Stage:
        batch = ledger.claim(worker, stage)
        assert batch is not None
        assert tenant_of(batch.works[0].prefix) == tenant
        ledger.complete(worker, batch)
    assert ledger.states(*first, *second) == ["succeeded"] * 2
    assert tenants() == {tenant}


def test_the_first_byte_stays_what_older_workers_read(ledger: Ledger) -> None:
    """They know 64 values."""
    key = idempotency(A.name, "k", "m", SAME, "normal", 3600.0)
    first = ledger.accept(features=SAME, tenant=A.id)
    ledger.run(ledger.producing.accept([Submission("m", SAME, key=key, tenant=A.id)]))
    run_stages(ledger)
    (again,) = ledger.run(ledger.producing.accept([Submission("m", SAME, tenant=A.id)]))
    flags = [blob[0] for blob in (ledger.client.get(key) for key in ledger.client.scan_iter(f"{TAG}r:*".encode()))]
    assert len(flags) == 3
    assert max(flags) < 64
    assert again.id != first[0]


@pytest.mark.parametrize("end", ["none", "succeeded", "invalid", "dead", "expired", "cancelled"])
def test_another_tenants_request_is_one_that_never_was(ledger: Ledger, end: str) -> None:
    worker = ledger.worker()
    (request_id,) = ledger.accept(tenant=A.id, timeout_ms=1000)
    if end == "succeeded":
        ledger.pass_stages(worker, *Stage)
    elif end in ("invalid", "dead"):
        batch = ledger.claim(worker)
        assert batch is not None
        ledger.settle(worker, batch, [dead() if end == "dead" else Ended(State.INVALID, FAILURE, NO_ATTEMPTS)])
    elif end == "expired":
        ledger.turn_clock(2)
        ledger.sweeping.expire_deadlines()
    elif end == "cancelled":
        cancel(ledger, ALICE, request_id)
    state = "queued" if end == "none" else end
    absent = never_accepted(request_id)
    foreign, unknown = read(ledger, BOB, request_id, absent)
    assert isinstance(foreign, NotFound)
    assert same_problem(foreign, unknown, request_id, absent)
    with pytest.raises(NotFound) as refused:
        cancel(ledger, BOB, request_id)
    with pytest.raises(NotFound) as not_there:
        cancel(ledger, BOB, absent)
    assert same_problem(refused.value, not_there.value, request_id, absent)
    for caller in (ALICE, OPERATOR, STORE, WITHOUT_KEYS):
        (status,) = read(ledger, caller, request_id)
        assert status["state"] == state, caller


def test_in_one_round_trip_each_caller_sees_its_own(ledger: Ledger) -> None:
    """The API's calls share them."""
    ended, waiting = ledger.accept(tenant=A.id), ledger.accept(tenant=B.id)
    cancel(ledger, ALICE, ended[0])
    asked = [(request_id, caller) for request_id in ended + waiting for caller in (ALICE, BOB, OPERATOR)]
    answers = ledger.run(ledger.producing.read(*map(list, zip(*asked, strict=True))))  # type: ignore[arg-type]
    states = [answer["state"] if isinstance(answer, dict) else answer.slug for answer in answers]
    assert states == ["cancelled", "not-found", "cancelled", "not-found", "queued", "queued"]


def test_another_tenants_old_request_is_gone_as_an_unknown_one_of_its_age(make_ledger: LedgerMaker) -> None:
    """410 or 404 is by the time in the id alone, also while there is a record."""
    ledger = make_ledger(result_ttl="10")
    (request_id,) = ledger.accept(tenant=A.id)
    ledger.turn_clock(11)
    foreign, unknown = read(ledger, BOB, request_id, never_accepted(request_id))
    assert isinstance(foreign, Gone)
    assert same_problem(foreign, unknown, request_id, never_accepted(request_id))
    assert read(ledger, ALICE, request_id)[0]["state"] == "queued"


def test_what_came_without_a_key_is_no_keys(ledger: Ledger) -> None:
    (request_id,) = ledger.accept()
    for caller in (ALICE, BOB):
        assert isinstance(read(ledger, caller, request_id)[0], NotFound)
        with pytest.raises(NotFound):
            cancel(ledger, caller, request_id)
    for caller in (OPERATOR, STORE, WITHOUT_KEYS):
        assert read(ledger, caller, request_id)[0]["state"] == "queued"


@pytest.mark.parametrize(
    ("tenant", "caller", "said"),
    [
        (A.id, ALICE, "cancelled by its producer"),
        (A.id, OPERATOR, "cancelled by an operator"),
        (OPERATORS.id, OPERATOR, "cancelled by its producer"),
        (A.id, STORE, "cancelled through the store"),
        (NOBODY, STORE, "cancelled through the store"),
        (NOBODY, OPERATOR, "cancelled by an operator"),
        (NOBODY, WITHOUT_KEYS, "cancelled by its producer"),
        (A.id, WITHOUT_KEYS, "cancelled by an operator"),
        (OLD, ALICE, "cancelled by its producer"),
        (OLD, OPERATOR, "cancelled by an operator"),
        (OLD, WITHOUT_KEYS, "cancelled by its producer"),
    ],
)
def test_cancelled_says_by_whom(ledger: Ledger, tenant: bytes, caller: Caller, said: str) -> None:
    (request_id,) = ledger.accept(tenant=tenant)
    ended = cancel(ledger, caller, request_id)
    assert (ended["state"], ended["error"]["message"]) == ("cancelled", said)
    assert cancel(ledger, STORE, request_id) == ended, "again: the same answer"


def test_a_request_of_an_older_release_is_read_and_cancelled_by_any_key_as_before(ledger: Ledger) -> None:
    worker = ledger.worker()
    polled, withdrawn, died = ledger.accept(3, tenant=OLD)
    assert [status["state"] for status in read(ledger, BOB, polled, withdrawn)] == ["queued"] * 2
    assert cancel(ledger, ALICE, withdrawn)["state"] == "cancelled"
    batch = ledger.claim(worker)
    assert batch is not None
    ledger.settle(worker, batch, [dead() if work.id == died else Completed(Output(work.body)) for work in batch.works])
    ledger.pass_stages(worker, Stage.SCORING, Stage.POSTPROCESS)
    ledger.run(ledger.letters.replay(died))
    assert [status["state"] for status in read(ledger, BOB, polled, died)] == ["succeeded", "queued"]
    ledger.pass_stages(worker, *Stage)
    assert owned(ledger) == {}, "it counts as nobody's, in accept, replay and ends alike"


@pytest.mark.spoils
def test_what_nobody_can_read_stays_its_tenants(ledger: Ledger) -> None:
    """As long as the prefix can be read."""
    worker = ledger.worker()
    broken, late = ledger.accept(2, tenant=A.id)
    for request_id in (broken, late):
        record = ledger.client.get(keys.record(request_id))
        ledger.client.set(keys.record(request_id), record[:-3] + b"\xc1" * 3)
    batch = ledger.claim(worker, limit=1)
    assert batch is not None
    assert batch.works[0].unreadable
    ledger.settle(worker, batch, [dead()])
    ledger.turn_clock(3601)
    assert ledger.sweeping.expire_deadlines() == 1
    assert [status["state"] for status in read(ledger, ALICE, broken, late)] == ["dead", "expired"]
    assert [answer.slug for answer in read(ledger, BOB, broken, late)] == ["not-found"] * 2
    assert owned(ledger) == {}


# Counts of unfinished requests


def test_unfinished_requests_are_counted_for_each_tenant_without_limits(ledger: Ledger) -> None:
    """Whatever their ends; of none there is no field."""
    worker = ledger.worker()
    key = idempotency(A.name, "k", "m", SAME, "normal", 3600.0)
    ledger.accept(2, tenant=B.id, timeout_ms=1000)
    ledger.accept(3)
    ledger.accept(tenant=OLD)
    first, again = (ledger.run(ledger.producing.accept([Submission("m", SAME, key=key, tenant=A.id)])) for _ in "12")
    assert again == [Known(first[0].id)]
    ledger.accept(features=SAME, tenant=A.id)
    (withdrawn,) = ledger.accept(tenant=A.id)
    assert owned(ledger) == {A.id: 3, B.id: 2}
    cancel(ledger, ALICE, withdrawn)
    ledger.turn_clock(2)
    assert ledger.sweeping.expire_deadlines() == 2
    assert owned(ledger) == {A.id: 2}
    batch = ledger.claim(worker)
    assert batch is not None
    outcomes = [dead() if work.id == first[0].id else Completed(Output(work.body)) for work in batch.works]
    ledger.settle(worker, batch, outcomes)
    ledger.sweeping.fan_out_flights()
    assert owned(ledger) == {}
    ledger.run(ledger.letters.replay(first[0].id))
    assert owned(ledger) == {A.id: 2}
    ledger.pass_stages(worker, *Stage)
    assert owned(ledger) == {}


def test_an_answer_that_was_there_is_no_unfinished_request(ledger: Ledger) -> None:
    ledger.accept(features=SAME, tenant=A.id)
    run_stages(ledger)
    ledger.accept(tenant=A.id)
    (answer,) = ledger.run(ledger.producing.accept([Submission("m", SAME, tenant=A.id)]))
    assert ledger.states(answer.id) == ["succeeded"]
    assert owned(ledger) == {A.id: 1}


def test_limits_can_be_set_at_any_time(ledger: Ledger) -> None:
    """What was accepted before counts, and makes room when it ends."""
    ids = ledger.accept(2, tenant=A.id)
    limited = Producing(ledger.async_client, read_settings({"SCORELINE_TENANT_IN_FLIGHT": "3"}))

    def submit(tenant: bytes = A.id) -> Any:
        return ledger.run(limited.accept([Submission("m", {"n": next(ledger.numbers)}, tenant=tenant)]))[0]

    assert isinstance(submit(), Accepted)
    assert isinstance(submit(), RateLimited)
    assert isinstance(submit(B.id), Accepted)
    assert all(isinstance(submit(NOBODY), Accepted) for _ in range(5)), "without a key there is no limit"
    cancel(ledger, ALICE, ids[0])
    assert isinstance(submit(), Accepted)
    assert isinstance(submit(), RateLimited)


def test_what_a_count_has_missed_locks_no_tenant_out_and_is_made_good(ledger: Ledger) -> None:
    """An old request that was not counted ends: the count does not fall below what is there."""
    ids = ledger.accept(2, tenant=A.id)
    ledger.client.hincrby(f"{TAG}owned", A.id, -1)  # type: ignore[arg-type]
    for request_id in ids:
        cancel(ledger, ALICE, request_id)
    assert owned(ledger) == {}
    ledger.accept(tenant=A.id)
    assert owned(ledger) == {A.id: 1}


def test_a_request_that_is_reopened_is_counted_once(ledger: Ledger) -> None:
    """It was accepted as far as its record: what is not open is not counted."""
    ids = ledger.accept(2, tenant=A.id)
    ledger.client.zrem(f"{TAG}open", ids[0])
    ledger.client.hset(f"{TAG}owned", A.id, 1)  # type: ignore[arg-type]
    score = ledger.client.zscore(f"{TAG}q:{ledger.lane().name}", ids[0])
    deadline = ledger.client.zscore(f"{TAG}open", ids[1])
    lane = ledger.lane(Stage.SCORING).name
    for _ in range(2):
        arguments = [86_400_000, 86_400_000, ids[0], ids[0], lane, int(score), int(deadline)]  # type: ignore[arg-type]
        assert ledger.scripts.reopen(args=arguments) == 1
        assert owned(ledger) == {A.id: 2}


def test_a_parcel_that_was_stopped_is_counted_once(ledger: Ledger) -> None:
    batch = SubmissionBatch([Submission("m", {"n": n}, tenant=A.id) for n in range(3)])
    ids = [answer.id for answer in ledger.run(ledger.producing.send(batch))]  # type: ignore[union-attr]
    ledger.client.set(
        f"{TAG}a:".encode() + batch.dedup_token, ids[0][:6], px=60_000
    )  # as if it had not come to its end
    assert [answer.id for answer in ledger.run(ledger.producing.send(batch))] == ids  # type: ignore[union-attr]
    assert owned(ledger) == {A.id: 3}


# Cached answers and flights


def submit(ledger: Ledger, tenant: bytes, **fields: Any) -> Any:
    (answer,) = ledger.run(ledger.producing.accept([Submission("m", SAME, tenant=tenant, **fields)]))
    return answer


def was_cached(ledger: Ledger, tenant: bytes) -> bool:
    (status,) = ledger.read(submit(ledger, tenant).id)
    return status["cached"]


@HERE_AND_ELSEWHERE
def test_a_cached_answer_is_given_within_its_tenant_only(cached: Ledger) -> None:
    ledger = cached
    submit(ledger, A.id)
    run_stages(ledger)
    forget_pointers(ledger)
    assert [was_cached(ledger, tenant) for tenant in (A.id, B.id, OPERATORS.id, NOBODY)] == [
        True, False, False, False,
    ]  # fmt: skip
    run_stages(ledger)
    forget_pointers(ledger)
    assert all(was_cached(ledger, tenant) for tenant in (A.id, B.id, OPERATORS.id, NOBODY))


@pytest.mark.parametrize(
    ("make_ledger", "far"), [("fakeredis", False), ("valkey", False), ("valkey", True)], indirect=["make_ledger"]
)
def test_a_cached_answer_is_given_to_all_where_the_deployment_says_so(
    valkey: str, make_ledger: LedgerMaker, far: bool
) -> None:
    share = {"share_results": "true"}
    ledger = elsewhere(valkey, make_ledger, **share) if far else make_ledger(**share)
    submit(ledger, A.id)
    joined = submit(ledger, B.id)
    assert joined.joined
    run_stages(ledger)
    forget_pointers(ledger)
    again = submit(ledger, B.id)
    (status, own) = read(ledger, BOB, again.id, joined.id)
    assert (status["cached"], status["result"], own["result"]) == (True, RESULT, RESULT)
    assert [answer.slug for answer in read(ledger, ALICE, again.id, joined.id)] == ["not-found"] * 2
    assert was_cached(ledger, NOBODY)


def test_tenants_join_their_own_flights_only(ledger: Ledger) -> None:
    """Also within one batch, as the API sends them."""
    tenants = (A.id, B.id, NOBODY) * 2
    answers = ledger.run(ledger.producing.accept([Submission("m", SAME, tenant=tenant) for tenant in tenants]))
    assert [answer.joined for answer in answers] == [False] * 3 + [True] * 3  # type: ignore[union-attr]
    batch = ledger.claim(ledger.worker())
    assert batch is not None
    assert {work.id for work in batch.works} == {answer.id for answer in answers[:3]}  # type: ignore[union-attr]


def test_the_nameless_tenants_cache_keys_are_those_of_older_releases() -> None:
    """Without keys an upgrade forgets no answer."""
    older = "dad1637ed0dfa973d864e1ef5c2dd691"
    assert cache_keys(REF, allow_degraded=True)({"n": 1}).hex() == older
    assert cache_keys(REF, allow_degraded=True, tenant=A.id)({"n": 1}).hex() != older


def test_an_end_already_reached_is_not_told_to_another_tenant(ledger: Ledger) -> None:
    (request_id,) = ledger.accept(tenant=A.id)
    ledger.pass_stages(ledger.worker(), *Stage)
    with pytest.raises(AlreadyEnded):
        cancel(ledger, ALICE, request_id)
    with pytest.raises(NotFound):
        cancel(ledger, BOB, request_id)


@pytest.mark.parametrize("make_ledger", ["valkey"], indirect=True)
def test_an_announced_end_is_told_to_its_tenant_only(ledger: Ledger) -> None:
    """Every API process hears all ends, with their records."""
    (request_id,) = ledger.accept(tenant=A.id)

    async def run() -> list[Any]:
        async with AsyncScoringClient(settings=ledger.settings) as client:
            callers = (ALICE, BOB, OPERATOR)
            client.listen()
            await client._here().notifications._ready.wait()  # or they look for themselves
            waits = [asyncio.create_task(client.wait_for(request_id, 30, caller=caller)) for caller in callers]
            waits += [asyncio.create_task(client.wait_for_all([request_id], 30, caller)) for caller in callers]  # type: ignore[arg-type]
            await asyncio.sleep(0)  # all wait for the announcement
            await ledger.producing.cancel(request_id, ALICE)
            return await asyncio.gather(*waits, return_exceptions=True)

    alice, bob, operator, all_of_alice, all_of_bob, all_of_operator = ledger.run(run())
    assert alice["error"]["message"] == "cancelled by its producer"
    assert alice == operator
    assert all_of_alice == all_of_operator == [alice]
    assert isinstance(bob, NotFound)
    assert [type(each) for each in all_of_bob] == [NotFound]
