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
    Completed,
    Ended,
    Header,
    Outcome,
    Output,
    Progress,
    RetryLater,
    Work,
)
from pipeline.ledger.keys import TAG
from pipeline.ledger.producers.submissions import Accepted, Known, Submission, SubmissionBatch, idempotency
from pipeline.ledger.recovery import release_claims
from pipeline.ledger.workers import claims as claiming
from pipeline.ledger.workers.claims import Batch, ClaimLost, Claims
from tests.support.ledger import Ledger, LedgerMaker

FATES = st.sampled_from(["complete", "retry", "dead", "complete", "invalid"])
SHORT_MS, LONG_MS, STEP_S = 60_000, 3_600_000, 100


@dataclass
class Request:
    """What the model knows of a request."""

    flight: "Flight"
    timeout_ms: int
    deadline_ms: float
    generation: int = 0
    end: str | None = None

    @property
    def overdue_at(self) -> float:
        """When it may expire: never, if scoring claimed it before its deadline."""
        past = self.flight.past_ms
        return self.deadline_ms if self.end is None and (past is None or self.deadline_ms <= past) else float("inf")


@dataclass
class Flight:
    """What the model knows of a computation.

    ``place``: where it stands, ('waiting' | 'later', STAGE) or ('claimed', FIELD). ``past_ms``: when scoring took it.
    ``outcome``: its end, while its members have yet to get it. ``letter``: who died with it, until they are replayed.
    """

    place: tuple[str, str] | None
    members: set[bytes]
    several: bool = False
    past_ms: float | None = None
    outcome: str | None = None
    died_at: Stage | None = None
    letter: set[bytes] | None = None


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
            self.flights: dict[bytes, Flight] = {}
            self.by_input: dict[int, Flight] = {}
            self.answered: set[int] = set()
            self.keys: dict[str, bytes] = {}
            self.held: list[Held] = []
            self.submission_batch: tuple[SubmissionBatch, list[Any]] | None = None
            self.commits = 0
            self.incarnations = 0
            self.other = self.ledger.worker("other")
            self.new_worker()

        def new_worker(self) -> None:
            self.incarnations += 1
            self.name = f"w{self.incarnations}"
            self.worker = self.ledger.worker(self.name)

        def teardown(self) -> None:
            for client in (self.ledger.client, self.ledger.own):
                client.close()
            for client in (self.ledger.async_client, self.ledger.own_async):
                self.ledger.run(client.aclose())

        def now(self) -> float:
            return self.ledger.sweeping.server_ms()

        def overdue(self, flight: Flight) -> bool:
            """Whether nobody who is left has time left."""
            now = self.now()
            return all(self.requests[member].overdue_at < now for member in flight.members)

        def standing(self, place: tuple[str, str]) -> list[Flight]:
            return [flight for flight in self.flights.values() if flight.place == place and flight.members]

        def finish(self, request_id: bytes, end: str) -> None:
            """One request ends; its flight goes on without it, or is over."""
            request = self.requests[request_id]
            assert request.end is None
            request.end = end
            flight = request.flight
            flight.members.discard(request_id)
            self.commits += 1
            if not flight.members:
                flight.place = flight.outcome = None

        def end_flight(self, flight: Flight, end: str) -> None:
            died = set(flight.members)
            for member in died:
                self.finish(member, end)
            if end == "dead":
                flight.letter = died

        # What producers do

        @rule(
            count=st.integers(1, 4),
            priority=st.sampled_from(list(Priority)),
            timeout_ms=st.sampled_from([SHORT_MS, LONG_MS]),
            key=st.sampled_from([None, None, "a", "b"]),
            features=st.sampled_from([None, None, 1, 1, 2]),
        )
        def accept(
            self, count: int, priority: Priority, timeout_ms: int, key: str | None, features: int | None
        ) -> None:
            inputs = [features or 10 + next(self.ledger.numbers) for _ in range(count)]
            if key is not None:
                inputs = [1] * count
            held = b"" if key is None else idempotency("", key, "m", {"n": 1}, "normal", 1.0)
            submissions = [Submission("m", {"n": n}, priority, timeout_ms, key=held) for n in inputs]
            submission_batch = SubmissionBatch(submissions)
            answers = self.ledger.run(self.ledger.producing.send(submission_batch))
            self.submission_batch = submission_batch, answers
            for answer, n in zip(answers, inputs, strict=True):
                if key in self.keys:
                    assert answer == Known(self.keys[key])
                    continue
                assert answer.id not in self.requests
                current = self.by_input.get(n)
                live = current is not None and bool(current.members) and not self.overdue(current)
                flight = current if current is not None and live else Flight(("waiting", "preprocess"), set())
                accepted_ms = int.from_bytes(answer.id[:6], "big")
                self.requests[answer.id] = Request(flight, timeout_ms, accepted_ms + timeout_ms)
                if key is not None:
                    self.keys[key] = answer.id
                if isinstance(answer, Known):
                    # It came within two seconds of an answer; these are the server's own, no clock turns them.
                    assert n in self.answered
                    assert not live
                    flight.members.add(answer.id)
                    self.finish(answer.id, "succeeded")
                    continue
                assert isinstance(answer, Accepted)
                assert answer.joined == live
                flight.members.add(answer.id)
                flight.several = live
                if not live:
                    self.flights[answer.id] = self.by_input[n] = flight

        @precondition(lambda self: self.submission_batch)
        @rule()
        def send_again(self) -> None:
            submission_batch, answers = self.submission_batch  # type: ignore[misc]
            assert self.ledger.run(self.ledger.producing.send(submission_batch)) == answers

        @precondition(lambda self: self.requests)
        @rule(data=st.data())
        def cancel(self, data: st.DataObject) -> None:
            # Those that a worker holds, or that wait for a retry, are where it goes wrong if anywhere.
            delicate = [
                i
                for i, request in self.requests.items()
                if request.end is None and (request.flight.place is None or request.flight.place[0] != "waiting")
            ]
            request_id = data.draw(st.sampled_from(sorted(delicate or self.requests)))
            request = self.requests[request_id]
            if request.end not in (None, "cancelled"):
                with pytest.raises(AlreadyEnded):
                    self.ledger.run(self.ledger.producing.cancel(request_id))
            elif request.end is None and request.flight.past_ms is not None:
                with pytest.raises(TooLate):
                    self.ledger.run(self.ledger.producing.cancel(request_id))
            else:
                assert self.ledger.run(self.ledger.producing.cancel(request_id))["state"] == "cancelled"
                if request.end is None:
                    self.finish(request_id, "cancelled")

        # What workers do

        @precondition(lambda self: any(flight.place for flight in self.flights.values()))
        @rule(data=st.data(), limit=st.integers(1, 5))
        def claim(self, data: st.DataObject, limit: int) -> None:
            places = {flight.place for flight in self.flights.values() if flight.place}
            stages = {stage for where, stage in places if where == "waiting"}
            stage = Stage(data.draw(st.sampled_from(sorted(stages or set(Stage)))))
            waiting = self.standing(("waiting", stage))
            late = [flight for flight in waiting if stage is not Stage.POSTPROCESS and self.overdue(flight)]
            batch = self.ledger.claim(self.worker, stage, limit)
            if batch is None:
                assert len(waiting) == len(late) or late, "something waited, and nothing was claimed"
                return
            self.take(batch)

        def take(self, batch: Batch, worker: Claims | None = None) -> None:
            for work in batch.works:
                flight = self.flights[work.id]
                assert not work.unreadable
                assert flight.members
                assert flight.place == ("waiting", batch.lane.stage)
                assert batch.lane.stage is Stage.POSTPROCESS or not self.overdue(flight)
                assert {self.requests[member].generation for member in flight.members} == {work.header.generation}
                flight.place = ("claimed", batch.field)
                if batch.lane.stage is Stage.SCORING:
                    flight.past_ms = self.now()
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
        @rule(data=st.data(), more=st.sampled_from([0, 3]), dies=st.booleans())
        def settle(self, data: st.DataObject, more: int, dies: bool) -> None:
            held = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
            fates = [data.draw(FATES) for _ in held.batch.works]
            if dies:  # after its settle, before the members of flights have their ends
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(claiming, "fan_out", lambda *_: None)
                    self.settle_all(held, fates, dies=True)
            elif self.settle_all(held, fates, more):
                self.park(held.worker, held.batch.lane, data)

        def settle_all(self, held: Held, fates: list[str], more: int = 0, *, dies: bool = False) -> bool:
            """Whether the worker is parked."""
            batch, stage = held.batch, held.batch.lane.stage
            outcomes = [self.outcome(fate, stage) for fate in fates]
            if held.released:
                with pytest.raises(ClaimLost):
                    self.ledger.settle(held.worker, batch, outcomes)
                return False
            following = self.ledger.settle(held.worker, batch, outcomes, claim_next=more)
            for work, fate in zip(batch.works, fates, strict=True):
                flight = self.flights[work.id]
                if not flight.members:
                    continue  # all were cancelled, or expired, while the stage worked
                if fate == "complete" and stage.following:
                    flight.place = ("waiting", stage.following)
                elif fate == "retry":
                    flight.place = ("later", stage)
                    if stage is not Stage.POSTPROCESS:
                        flight.past_ms = None
                else:
                    end = "succeeded" if fate == "complete" else fate
                    flight.died_at = stage if fate == "dead" else None
                    if end == "succeeded":
                        self.answered |= {n for n, known in self.by_input.items() if known is flight}
                    if dies and flight.several:
                        flight.place, flight.outcome, flight.past_ms = None, end, self.now()
                        if end == "dead":
                            flight.letter = set(flight.members)
                    else:
                        self.end_flight(flight, end)
            if following is not None:
                self.take(following)
            return held.worker.parked

        @staticmethod
        def outcome(fate: str, stage: Stage) -> Outcome:
            if fate == "complete":
                return Completed(Output({"score": 0.5} if stage is Stage.POSTPROCESS else b"body"))
            attempts = Attempts().charge(1_800_000_000_000, stage, "unknown", "boom")
            if fate == "retry":
                return RetryLater(1000, attempts)
            return Ended(State(fate), Failure(category="x", stage=stage, message="boom", retryable=False), attempts)

        def park(self, worker: Claims, lane: Lane, data: st.DataObject) -> None:
            """The worker stands on the list of the idle: what comes now is claimed for it, alive or not."""
            event = data.draw(st.sampled_from(["nothing", "accept", "pass", "pass and die"]))
            if event == "accept":
                self.accept(2, Priority.HIGH, LONG_MS, None, None)
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
            woken = worker.park(lane, 3, 0.001)
            assert isinstance(woken, Batch) == bool(works)
            if isinstance(woken, Batch):
                assert [work.id for work in woken.works] == [work.id for work in works]
                self.held[-1].batch = woken

        def placeholder(self, request_id: bytes, lane: Lane) -> Work:
            generation = max(self.requests[member].generation for member in self.flights[request_id].members)
            header = Header("m", "1", bytes(32), "", 1, 1, generation, True)
            return Work(request_id, 0, header, Progress(0), None, b"")

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
                    flight, stage = self.flights[work.id], held.batch.lane.stage
                    if flight.place == ("claimed", held.batch.field) and flight.members:
                        flight.place = ("waiting", stage)
                        back += 1
                        if stage is Stage.SCORING:
                            flight.past_ms = None
            assert released == back
            if how == "loss":
                self.new_worker()

        @precondition(lambda self: any(held.worker is self.worker and not held.released for held in self.held))
        @rule(data=st.data(), how=st.sampled_from(["start", "loss"]))
        def cancel_what_is_held_and_lose_it(self, data: st.DataObject, how: str) -> None:
            self.cancel(data)
            self.lose_claims(how)

        @rule(how=st.sampled_from(["retry", "die"]))
        def fail_in_scoring_and_run_out_of_time(self, how: str) -> None:
            """What was past the point of no return is not, once it waits again."""
            self.pass_stages(1, 5)
            batch = self.ledger.claim(self.worker, Stage.SCORING, 5)
            if batch is not None:
                self.take(batch)
                if how == "retry":
                    self.settle_all(self.held.pop(), ["retry"] * len(batch.works))
                else:
                    self.lose_claims("start")
            self.let_time_pass()
            self.expire()

        @rule()
        def revive(self) -> None:
            self.ledger.turn_clock(2)
            while self.ledger.sweeping.requeue_due_retries()[0]:
                pass
            for flight in self.flights.values():
                if flight.place and flight.place[0] == "later":
                    flight.place = ("waiting", flight.place[1])

        @rule()
        def let_time_pass(self) -> None:
            self.ledger.turn_clock(STEP_S)

        @rule()
        def expire(self) -> None:
            self.ledger.turn_clock(2)  # those that a flight past expiry held are looked at again after a second
            now = self.now()
            late = [request_id for request_id, request in self.requests.items() if request.overdue_at < now]
            assert self.ledger.sweeping.expire_deadlines() == len(late)
            for request_id in late:
                self.finish(request_id, "expired")

        @precondition(lambda self: any(flight.outcome for flight in self.flights.values()))
        @rule()
        def fan_out(self) -> None:
            left = [flight for flight in self.flights.values() if flight.outcome]
            assert self.ledger.sweeping.fan_out_flights() == sum(len(flight.members) for flight in left)
            for flight in left:
                assert flight.outcome is not None
                self.end_flight(flight, flight.outcome)

        @precondition(lambda self: any(request.end == "dead" for request in self.requests.values()))
        @rule(data=st.data())
        def replay(self, data: st.DataObject) -> None:
            dead = sorted(request_id for request_id, request in self.requests.items() if request.end == "dead")
            flight = self.requests[(request_id := data.draw(st.sampled_from(dead)))].flight
            self.ledger.run(self.ledger.letters.replay(request_id))
            assert flight.died_at is not None
            assert flight.letter
            flight.place = ("waiting", flight.died_at)
            flight.members, flight.letter = set(flight.letter), None
            flight.several = len(flight.members) > 1 or self.flights.get(next(iter(flight.members))) is not flight
            flight.past_ms = self.now() if flight.died_at is Stage.POSTPROCESS else None
            self.by_input = {n: known for n, known in self.by_input.items() if known is not flight}
            for member in flight.members:
                request = self.requests[member]
                request.end = None
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
                    assert self.flights[request_id].members, "a flight waits that nobody waits for"
            for entry in answers[3]:
                stage = entry[17:].split(b" ", 1)[1].split(b"/")[0].decode()
                places.setdefault(entry[:16], []).append(("later", stage))
            for claims in answers[4:]:
                for field, claim in claims.items():
                    ids = claim.split(b"|", 3)[3]
                    for start in range(0, len(ids), 16):
                        places.setdefault(ids[start : start + 16], []).append(("claimed", field.decode()))
            for flight_id, flight in self.flights.items():
                if not flight.members or flight.outcome:
                    assert flight_id not in places or places[flight_id][0][0] in ("claimed", "later")
                elif flight_id in places or not self.overdue(flight):  # else a claim dropped it: the sweeper ends it
                    assert places[flight_id] == [flight.place]

        @invariant()
        def members_are_kept_of_flights_that_several_wait_for_alone(self) -> None:
            client = self.ledger.client
            several = {
                flight_id: flight for flight_id, flight in self.flights.items() if flight.several and flight.members
            }
            assert set(client.hkeys(f"{TAG}joined")) == set(several)
            for flight_id, flight in several.items():
                assert set(client.zrange(f"{TAG}m:".encode() + flight_id, 0, -1)) == flight.members

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
            letters = {flight_id for flight_id, flight in self.flights.items() if flight.letter}
            assert set(self.ledger.client.zrange(f"{TAG}dead", 0, -1)) == letters

    return LedgerMachine


@pytest.mark.parametrize("make_ledger", ["valkey"], indirect=True)
def test_whatever_happens_every_request_ends_once(make_ledger: LedgerMaker) -> None:
    run_state_machine_as_test(
        make_machine(make_ledger),
        settings=settings(
            max_examples=150,
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
            print_blob=True,
        ),
    )
