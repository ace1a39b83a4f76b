"""What operators read in the log of the requests of a batch: by id, and never thousands of lines."""

import random
import time
from collections.abc import Sequence

from pipeline.contracts.failures import InvalidInput, NotNow, NumericFailure
from pipeline.contracts.ids import random_tails, to_text
from pipeline.contracts.lanes import ModelRef, parse_lane
from pipeline.contracts.stages import Stage, State
from pipeline.contracts.status import Failure
from pipeline.contracts.work import Attempts, Completed, Ended, Header, Outcome, Output, Progress, Work
from pipeline.ledger.workers.claims import Batch, ClaimLost
from pipeline.settings import read_settings
from pipeline.telemetry.events.requests import (
    TOLD,
    BatchLost,
    RequestDead,
    RequestInvalid,
    RequestPostponed,
    RequestRetried,
    RequestsLeftOut,
)
from pipeline.worker.judge import judge
from pipeline.worker.reporting import report_failures, report_lost
from tests.support.emitted import emitted

REF = ModelRef("m", "1", "a" * 64)
HEADER = Header("m", "1", bytes(32), "", 1, 60_000, 0, True)
DONE = Completed(Output(b""))


def batch_of(rows: int, attempts: Attempts | None = None) -> Batch:
    ids = [bytes(6) + tail for tail in random_tails(rows)]
    works = [Work(request_id, 0, HEADER, Progress(0), {}, b"") for request_id in ids]
    for work in works:
        work.attempts = attempts or work.attempts
    return Batch(parse_lane(REF.lane(Stage.SCORING)), "1:1", "w", 0, time.monotonic(), works)


def judged(batch: Batch, errors: Sequence[Exception | None]) -> list[Outcome]:
    def outcome(work: Work, error: Exception | None) -> Outcome:
        settings = read_settings({})
        return judge(error, work, Stage.SCORING, 0, settings, random.Random(1)) if error else DONE

    return [outcome(work, error) for work, error in zip(batch.works, errors, strict=True)]


def test_each_failed_request_is_told_with_its_id_model_stage_and_attempt() -> None:
    batch = batch_of(5, Attempts().charge(0, "scoring", "unknown", "before"))
    errors = [None, OSError("disk"), InvalidInput("no age"), NumericFailure("NaN"), NotNow("the store is away", 1.0)]
    outcomes = judged(batch, errors)
    with emitted() as events:
        report_failures(batch, outcomes)
    assert [type(event) for event in events] == [RequestDead, RequestRetried, RequestInvalid, RequestPostponed]
    ids = [to_text(batch.works[place].id) for place in (3, 1, 2, 4)]
    assert [event.values()["request_id"] for event in events] == ids
    assert {(event.values()["model"], event.values()["stage"]) for event in events} == {("m@1", "scoring")}
    assert [event.values()["attempt"] for event in events] == [2, 2, 2, 2]
    dead, retried, invalid, postponed = events
    assert (dead.category, dead.error) == ("numeric", "NaN")  # type: ignore[attr-defined]
    assert (retried.category, retried.error) == ("store", "OSError: disk")  # type: ignore[attr-defined]
    assert invalid.category == "input"  # type: ignore[attr-defined]
    assert postponed.reason == "the store is away"  # type: ignore[attr-defined]


def test_a_model_that_fails_every_row_writes_a_few_lines_for_each_batch() -> None:
    batch = batch_of(128)
    outcomes = judged(batch, [NumericFailure("NaN") if place == 100 else OSError("disk") for place in range(128)])
    with emitted() as events:
        report_failures(batch, outcomes)
    assert len(events) == TOLD + 1
    assert isinstance(events[0], RequestDead), "those that died come first"
    assert events[-1] == RequestsLeftOut(stage="scoring", model="m@1", requests=128 - TOLD)


def test_a_batch_that_succeeds_says_nothing() -> None:
    batch = batch_of(3)
    with emitted() as events:
        report_failures(batch, [DONE] * 3)
    assert events == []


def test_an_output_that_the_ledger_cannot_hold_is_told_as_the_death_that_it_is() -> None:
    batch = batch_of(2)
    failure = Failure(category="unknown", stage=None, message="cannot be stored", retryable=False)
    batch.unstorable[batch.works[1].id] = Ended(State.DEAD, failure)
    with emitted() as events:
        report_failures(batch, [DONE] * 2)
    (dead,) = events
    assert isinstance(dead, RequestDead)
    assert (dead.request_id, dead.attempt) == (to_text(batch.works[1].id), 1)


def test_a_lost_batch_names_its_first_requests() -> None:
    batch = batch_of(20)
    with emitted() as events:
        report_lost(batch, ClaimLost("20 requests were released"))
    (lost,) = events
    assert isinstance(lost, BatchLost)
    assert (lost.requests, list(lost.request_ids)) == (20, [to_text(work.id) for work in batch.works[:TOLD]])
