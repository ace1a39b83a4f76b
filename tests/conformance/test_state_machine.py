"""Random walks over the ledger's scripts on a real server, beside a small model of what must come of them.

After every step: what is unfinished stands in exactly one place, what has ended has ended once and stays so, and the
counters add up.
"""

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from pipeline.contracts.lanes import Lane
from pipeline.contracts.problems import AlreadyEnded, TooLate
from pipeline.contracts.stages import Priority, Stage, State
from pipeline.contracts.status import Failure
from pipeline.contracts.work import (
    Attempts,
    Carry,
    Completed,
    Ended,
    Header,
    Outcome,
    Output,
    RetryLater,
    Work,
)
from pipeline.ledger.claiming import Batch, ClaimLost, Claims, release_claims
from pipeline.ledger.keys import TAG
from pipeline.ledger.producing import Accepted, Known, Parcel, Submission, idempotency
from tests.conformance.conftest import Ledger, LedgerMaker

FATES = st.sampled_from(["complete", "retry", "dead", "complete", "invalid"])
SHORT_MS, LONG_MS, STEP_S = 60_000, 3_600_000, 100


@dataclass
class Request:
    """What the model knows of a request.

    ``place``: where it stands, ('waiting' | 'later', STAGE) or ('claimed', FIELD).
    """

    place: tuple[str, str] | None
    timeout_ms: int
    deadline_ms: float
    generation: int = 0
    end: str | None = None
    died_at: Stage | None = None
    past: bool = False
    """Whether scoring has claimed it: it neither expires nor can be cancelled."""


@dataclass
class Held:
    """A batch that some worker works on, or believes to."""

    batch: Batch
    worker: Claims
    released: bool = False


def make_machine(make_ledger: LedgerMaker) -> type[RuleBasedStateMachine]:
    class LedgerMachine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.ledger: Ledger = make_ledger()
            self.requests: dict[bytes, Request] = {}
            self.keys: dict[str, bytes] = {}
            self.held: list[Held] = []
            self.parcel: tuple[Parcel, list[Any]] | None = None
            self.commits = 0
            self.incarnations = 0
            self.other = self.ledger.worker("other")
            self.new_worker()

        def new_worker(self) -> None:
            self.incarnations += 1
            self.name = f"w{self.incarnations}"
            self.worker = self.ledger.worker(self.name)

        def teardown(self) -> None:
            self.ledger.client.close()
            self.ledger.run(self.ledger.async_client.aclose())

        def now(self) -> float:
            return self.ledger.sweeping.server_ms()

        def overdue(self, request: Request) -> bool:
            return request.end is None and not request.past and request.deadline_ms < self.now()

        def finish(self, request: Request, end: str) -> None:
            request.end, request.place = end, None
            self.commits += 1

        # What producers do

        @rule(
            count=st.integers(1, 4),
            priority=st.sampled_from(list(Priority)),
            timeout_ms=st.sampled_from([SHORT_MS, LONG_MS]),
            key=st.sampled_from([None, None, "a", "b"]),
        )
        def accept(self, count: int, priority: Priority, timeout_ms: int, key: str | None) -> None:
            held = b"" if key is None else idempotency("", key, "m", {"n": 1}, "normal", 1.0)
            submissions = [Submission("m", {"n": 1}, priority, timeout_ms, key=held) for _ in range(count)]
            parcel = Parcel(submissions)
            answers = self.ledger.run(self.ledger.producing.send(parcel))
            self.parcel = parcel, answers
            for answer in answers:
                if key in self.keys:
                    assert answer == Known(self.keys[key])
                    continue
                assert isinstance(answer, Accepted)
                assert answer.id not in self.requests
                accepted_ms = int.from_bytes(answer.id[:6], "big")
                self.requests[answer.id] = Request(("waiting", "preprocess"), timeout_ms, accepted_ms + timeout_ms)
                if key is not None:
                    self.keys[key] = answer.id

        @precondition(lambda self: self.parcel)
        @rule()
        def send_again(self) -> None:
            parcel, answers = self.parcel  # type: ignore[misc]
            assert self.ledger.run(self.ledger.producing.send(parcel)) == answers

        @precondition(lambda self: self.requests)
        @rule(data=st.data())
        def cancel(self, data: st.DataObject) -> None:
            # Those that a worker holds, or that wait for a retry, are where it goes wrong if anywhere.
            delicate = [i for i, request in self.requests.items() if request.place and request.place[0] != "waiting"]
            request_id = data.draw(st.sampled_from(sorted(delicate or self.requests)))
            request = self.requests[request_id]
            if request.end not in (None, "cancelled"):
                with pytest.raises(AlreadyEnded):
                    self.ledger.run(self.ledger.producing.cancel(request_id))
            elif request.past:
                with pytest.raises(TooLate):
                    self.ledger.run(self.ledger.producing.cancel(request_id))
            else:
                assert self.ledger.run(self.ledger.producing.cancel(request_id))["state"] == "cancelled"
                if request.end is None:
                    self.finish(request, "cancelled")

        # What workers do

        @precondition(lambda self: any(request.place for request in self.requests.values()))
        @rule(data=st.data(), limit=st.integers(1, 5))
        def claim(self, data: st.DataObject, limit: int) -> None:
            stages = {
                request.place[1]
                for request in self.requests.values()
                if request.place and request.place[0] == "waiting"
            }
            stage = Stage(data.draw(st.sampled_from(sorted(stages or set(Stage)))))
            waiting = [request for request in self.requests.values() if request.place == ("waiting", stage)]
            late = [request for request in waiting if self.overdue(request)]
            batch = self.ledger.claim(self.worker, stage, limit)
            if batch is None:
                assert len(waiting) == len(late) or late, "something waited, and nothing was claimed"
                return
            self.take(batch)

        def take(self, batch: Batch, worker: Claims | None = None) -> None:
            for work in batch.works:
                request = self.requests[work.id]
                assert request.end is None
                assert request.place == ("waiting", batch.lane.stage)
                assert not self.overdue(request)
                assert work.header.generation == request.generation
                request.place = ("claimed", batch.field)
                request.past = request.past or batch.lane.stage is Stage.SCORING
            self.held.append(Held(batch, worker or self.worker))

        @rule(stages=st.integers(1, 3), limit=st.integers(1, 5))
        def pass_stages(self, stages: int, limit: int) -> None:
            """The good path, so that walks get far."""
            for stage in list(Stage)[:stages]:
                batch = self.ledger.claim(self.other, stage, limit)
                if batch is not None:
                    self.take(batch, self.other)
                    self.settle_all(self.held.pop(), ["complete"] * len(batch.works))

        @precondition(lambda self: self.held)
        @rule(data=st.data(), more=st.sampled_from([0, 3]))
        def settle(self, data: st.DataObject, more: int) -> None:
            held = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
            if self.settle_all(held, [data.draw(FATES) for _ in held.batch.works], more):
                self.linger(held.worker, held.batch.lane, data)

        def settle_all(self, held: Held, fates: list[str], more: int = 0) -> bool:
            """Whether the worker lingers now."""
            batch, stage = held.batch, held.batch.lane.stage
            outcomes = [self.outcome(fate, stage) for fate in fates]
            if held.released:
                with pytest.raises(ClaimLost):
                    self.ledger.settle(held.worker, batch, outcomes)
                return False
            following = self.ledger.settle(held.worker, batch, outcomes, claim_next=more)
            for work, fate in zip(batch.works, fates, strict=True):
                request = self.requests[work.id]
                if request.end is not None:
                    continue  # it was cancelled, or expired, while the stage worked
                if fate == "complete" and stage.following:
                    request.place = ("waiting", stage.following)
                elif fate == "complete":
                    self.finish(request, "succeeded")
                elif fate == "retry":
                    request.place = ("later", stage)
                    request.past = stage is Stage.POSTPROCESS
                else:
                    request.died_at = stage if fate == "dead" else None
                    self.finish(request, fate)
            if following is not None:
                self.take(following)
            return held.worker.lingers

        @staticmethod
        def outcome(fate: str, stage: Stage) -> Outcome:
            if fate == "complete":
                return Completed(Output({"score": 0.5} if stage is Stage.POSTPROCESS else b"body"))
            attempts = Attempts().charge(1_800_000_000_000, stage, "boom")
            if fate == "retry":
                return RetryLater(1000, attempts)
            return Ended(State(fate), Failure(category="x", stage=stage, message="boom", retryable=False), attempts)

        def linger(self, worker: Claims, lane: Lane, data: st.DataObject) -> None:
            """The worker stands on the list of the idle: what comes now is claimed for it, alive or not."""
            event = data.draw(st.sampled_from(["nothing", "accept", "pass", "pass and die"]))
            if event == "accept":
                self.accept(2, Priority.HIGH, LONG_MS, None)
            elif event.startswith("pass"):
                self.pass_stages(2, 5)
            handed = self.ledger.client.hgetall(f"{TAG}c:{self.name}")
            for held in self.held:
                handed.pop(held.batch.field.encode(), None)
            works = []
            for claim in handed.values():
                ids = claim.split(b"|", 3)[3]
                works = [self.placeholder(ids[at : at + 16], lane) for at in range(0, len(ids), 16)]
            if works:
                (field,) = handed
                self.take(Batch(lane, field.decode(), self.name, 0, 0.0, works))
            if event == "pass and die":
                self.lose_claims("start")
                worker.give_back()
                return
            woken = worker.linger(lane, 3, 0.001)
            assert isinstance(woken, Batch) == bool(works)
            if isinstance(woken, Batch):
                assert [work.id for work in woken.works] == [work.id for work in works]
                self.held[-1].batch = woken

        def placeholder(self, request_id: bytes, lane: Lane) -> Work:
            header = Header("m", "1", bytes(32), "", 1, 1, self.requests[request_id].generation, True)
            return Work(request_id, 0, header, Carry(0), None, b"")

        # What dies, and what the sweeper does

        @rule(how=st.sampled_from(["start", "none", "loss"]))
        def lose_claims(self, how: Any) -> None:
            released = release_claims(
                self.ledger.scripts, self.name, charge=how, reason="died", fence=how == "loss", queue="preprocess"
            )
            back = 0
            for held in self.held:
                if held.worker is not self.worker or held.released:
                    continue
                held.released = True
                for work in held.batch.works:
                    request = self.requests[work.id]
                    if request.place == ("claimed", held.batch.field):
                        stage = held.batch.lane.stage
                        request.place = ("waiting", stage)
                        request.past = stage is Stage.POSTPROCESS
                        back += 1
            assert released == back
            if how == "loss":
                self.new_worker()

        @rule()
        def revive(self) -> None:
            self.ledger.turn_clock(2)
            while self.ledger.sweeping.revive_due_retries():
                pass
            for request in self.requests.values():
                if request.place and request.place[0] == "later":
                    request.place = ("waiting", request.place[1])

        @rule()
        def let_time_pass(self) -> None:
            self.ledger.turn_clock(STEP_S)

        @rule()
        def expire(self) -> None:
            late = [request for request in self.requests.values() if self.overdue(request)]
            assert self.ledger.sweeping.expire_deadlines() == len(late)
            for request in late:
                self.finish(request, "expired")

        @precondition(lambda self: any(request.end == "dead" for request in self.requests.values()))
        @rule(data=st.data())
        def replay(self, data: st.DataObject) -> None:
            dead = sorted(request_id for request_id, request in self.requests.items() if request.end == "dead")
            request_id = data.draw(st.sampled_from(dead))
            request = self.requests[request_id]
            self.ledger.run(self.ledger.letters.replay(request_id))
            assert request.died_at is not None
            request.end, request.place = None, ("waiting", request.died_at)
            request.past = request.died_at is Stage.POSTPROCESS
            request.generation += 1
            request.deadline_ms = self.now() + request.timeout_ms

        # What must hold

        @invariant()
        def unfinished_requests_stand_in_one_place(self) -> None:
            client = self.ledger.client
            unfinished = {request_id for request_id, request in self.requests.items() if request.end is None}
            assert set(client.zrange(f"{TAG}open", 0, -1)) == unfinished
            places: dict[bytes, list[tuple[str, str]]] = {}
            pipe = client.pipeline()
            for stage in Stage:
                pipe.zrange(f"{TAG}q:{self.ledger.lane(stage).name}", 0, -1)
            pipe.zrange(f"{TAG}later", 0, -1)
            for number in range(1, self.incarnations + 1):
                pipe.hgetall(f"{TAG}c:w{number}")
            answers = pipe.execute()
            for stage, ids in zip(Stage, answers, strict=False):
                for request_id in ids:
                    places.setdefault(request_id, []).append(("waiting", stage))
                    assert request_id in unfinished, "an ended request waits"
            for entry in answers[3]:
                stage = entry[17:].split(b" ", 1)[1].split(b"/")[0].decode()
                places.setdefault(entry[:16], []).append(("later", stage))
            for claims in answers[4:]:
                for field, claim in claims.items():
                    ids = claim.split(b"|", 3)[3]
                    for start in range(0, len(ids), 16):
                        places.setdefault(ids[start : start + 16], []).append(("claimed", field.decode()))
            for request_id in unfinished:
                request = self.requests[request_id]
                if self.overdue(request) and request_id not in places:
                    continue  # a claim has dropped it; the sweeper ends it
                assert places[request_id] == [request.place]

        @invariant()
        def ends_stay_and_are_counted_once(self) -> None:
            ids = list(self.requests)
            for request, status in zip(self.requests.values(), self.ledger.read(*ids), strict=True):
                assert status["generation"] == request.generation
                assert (status["finished_at"] is None) == (request.end is None)
                if request.end is not None:
                    assert status["state"] == request.end
            counts = {name.decode(): int(value) for name, value in self.ledger.client.hgetall(f"{TAG}counts").items()}
            assert counts.get("accepted", 0) == len(self.requests)
            ends = ("succeeded", "invalid", "dead", "expired", "cancelled")
            assert sum(counts.get(end, 0) for end in ends) == self.commits

        @invariant()
        def letters_are_of_the_dead_alone(self) -> None:
            dead = {request_id for request_id, request in self.requests.items() if request.end == "dead"}
            assert set(self.ledger.client.zrange(f"{TAG}dead", 0, -1)) == dead

    return LedgerMachine


@pytest.mark.parametrize("make_ledger", ["valkey"], indirect=True)
def test_whatever_happens_every_request_ends_once(make_ledger: LedgerMaker) -> None:
    run_state_machine_as_test(
        make_machine(make_ledger),
        settings=settings(
            max_examples=80,
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
            print_blob=True,
        ),
    )
