"""What ``settle.lua`` is to write for a batch: one short method for each kind of outcome.

    forward  completed, and another stage follows: the output; the request waits in the next lane
    succeed  completed, and no stage follows: the request's record with the result
    retry    the account of attempts; the request waits in this lane again after a delay
    end      the request's record with the error; if it is dead, a dead letter as well

An output that cannot be stored is a failure of its request: it ends as ``dead``, and the others are settled.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from pipeline.contracts.ids import accepted_ms
from pipeline.contracts.stages import FINAL_STATES, Stage, State
from pipeline.contracts.status import Failure
from pipeline.contracts.work import Completed, Ended, Outcome, Output, Progress, RetryLater, Work
from pipeline.ledger.letters import pack_letter
from pipeline.ledger.records import End, end_of, for_itself_alone, pack_attempts, pack_entry
from pipeline.ledger.workers.batch import Batch, Stray
from pipeline.settings import Settings

Timings = Sequence[Sequence[object]]


class Following(NamedTuple):
    """What is to be claimed with the settle: up to ``limit`` requests of the same lane (0: none), as ``field``.

    ``waiter``: the entry with which this process parks if nothing waits; empty if it has something else to do.
    """

    field: str
    limit: int
    waiter: str


class _Arguments(NamedTuple):
    """ARGV of ``settle.lua``, in its order. The rows follow: forwards, ends, retries, letters."""

    incarnation: str
    field: str
    lane: str
    next_lane: str
    result_ttl_ms: int
    dead_max_age_ms: int
    dead_max_count: int
    next_field: str
    claim_next: int
    forwards: int
    ends: int
    retries: int
    letters: int
    counts: str
    waiter: str
    idempotency_ttl_ms: int
    cache_ms: int
    cache_max_bytes: int
    worked_ms: float


class Settlement:
    """The outcomes of one batch, in the form in which ``settle.lua`` takes them."""

    def __init__(self, batch: Batch, model_runs: Mapping[str, int], input_of: Callable[[bytes], bytes | None]) -> None:
        """``model_runs``: how many rows each model has run.

        ``input_of``: the record that a request's computation began with, for dead letters of later stages.
        """
        self._batch = batch
        self._input_of = input_of
        self._now_ms = batch.server_ms()
        self._stage = batch.lane.stage
        self._stage_name = str(self._stage)
        self._own_model = f"{batch.lane.model.name}@{batch.lane.model.version}"
        # Flat, as the script takes them: a batch has up to 128 requests, and an object for each would cost more.
        self._forwards: list[object] = []
        self._ends: list[object] = []
        self._retries: list[object] = []
        self._letters: list[object] = []
        self._counts = Counter({f"runs:{model}": rows for model, rows in model_runs.items()})

    def add(self, outcomes: Sequence[Outcome]) -> None:
        """Takes the outcome of each request of the batch, in order, and lets its strays go on."""
        self._pass_strays(self._batch.strays)
        completed = self._forward if self._stage.following else self._succeed
        stage_name, claimed_ms, worked_ms = self._stage_name, self._batch.claimed_ms, self._batch.worked_ms
        for work, outcome in zip(self._batch.works, outcomes, strict=True):
            progress = work.progress
            waited_ms = round(claimed_ms - (progress.entered_ms or accepted_ms(work.id)), 3)
            timings = (*progress.timings, (stage_name, waited_ms if waited_ms > 0 else 0, worked_ms))
            if isinstance(outcome, Completed):
                try:
                    completed(work, outcome.output, timings)
                except (TypeError, ValueError, OverflowError) as error:
                    ended = self._batch.unstorable[work.id] = _not_storable(error)
                    self._end(work, ended, timings)
            elif isinstance(outcome, RetryLater):
                self._retry(work, outcome)
            else:
                self._end(work, outcome, timings)

    def _forward(self, work: Work, output: Output, timings: Timings) -> None:
        """Gives the request to the next stage, with this one's output."""
        progress = work.progress
        scored_by = output.scored_by or progress.scored_by
        done = Progress(self._now_ms, timings, (*progress.anomalies, *output.anomalies), scored_by)
        self._forwards += work.id, work.score, pack_entry(self._stage_name, work.prefix, done, output.body)

    def _succeed(self, work: Work, output: Output, timings: Timings) -> None:
        """Ends the request with the result. The last stage is done with it."""
        progress, now_ms = work.progress, self._now_ms
        substitute = output.scored_by or progress.scored_by
        done = Progress(now_ms, timings, (*progress.anomalies, *output.anomalies), substitute)
        prefix = for_itself_alone(work.prefix) if substitute else work.prefix
        starts = work.attempts.starts + 1
        end = End(now_ms, output.body, None, starts, substitute or self._own_model, bool(substitute))
        self._ends += work.id, _SUCCEEDED, pack_entry(_SUCCEEDED, prefix, done, end)

    def _retry(self, work: Work, outcome: RetryLater) -> None:
        """Runs the request again after a delay. A retry that was not charged is outside the lane's budget."""
        free = "" if outcome.charged else "free"
        if outcome.charged:
            self._count_failure(outcome.attempts.errors[-1].category)
        self._retries += work.id, work.score, outcome.delay_ms, pack_attempts(outcome.attempts), free

    def _end(self, work: Work, outcome: Ended, timings: Timings) -> None:
        """Ends the request without a result. A dead one leaves a dead letter with its input."""
        starts = outcome.attempts.starts or work.attempts.starts + 1
        end = End(self._now_ms, None, outcome.error, starts)
        record = end_of(outcome.state, work.prefix, work.progress._replace(timings=timings), end)
        self._ends += work.id, str(outcome.state), record
        self._count_failure(outcome.error["category"])
        if outcome.state is State.DEAD:
            accepted = work.blob if self._stage is Stage.PREPROCESS else self._input_of(work.id)
            self._letters += work.id, pack_letter(work, outcome, self._stage, accepted, self._now_ms)

    def _pass_strays(self, strays: Iterable[Stray]) -> None:
        """Gives strays that this stage has done to the next one, and ends those that have their end already."""
        for stray in strays:
            if stray.kind == self._stage:
                self._forwards += stray.id, stray.score, stray.blob
            elif stray.kind in FINAL_STATES:
                self._ends += stray.id, stray.kind, stray.blob

    def _count_failure(self, category: str) -> None:
        self._counts[f"failed:{self._stage_name}:{category}"] += 1

    def arguments(self, settings: Settings, following: Following) -> list[object]:
        """ARGV of ``settle.lua``, in its order."""
        batch, next_stage = self._batch, self._stage.following
        # A record names its model's pool; a lane does so at scoring only.
        model = next((work.header.ref for work in batch.works if not work.unreadable), batch.lane.model)
        # Where a cache outside of the ledger is filled by the worker, the ledger keeps no results for others.
        keeps = batch.works and not settings.cache_url
        arguments = _Arguments(
            incarnation=batch.incarnation,
            field=batch.field,
            lane=batch.lane.name,
            next_lane=model.lane(next_stage) if next_stage else "",
            result_ttl_ms=round(settings.result_ttl * 1000),
            dead_max_age_ms=round(settings.dead_max_age * 1000),
            dead_max_count=settings.dead_max_count,
            next_field=following.field,
            claim_next=following.limit,
            forwards=len(self._forwards) // 3,
            ends=len(self._ends) // 3,
            retries=len(self._retries) // 5,
            letters=len(self._letters) // 2,
            counts=" ".join(f"{name} {rows}" for name, rows in self._counts.items()),
            waiter=following.waiter,
            idempotency_ttl_ms=round(settings.idempotency_ttl * 1000),
            cache_ms=round(1000 * batch.works[0].header.cache_s) if keeps else 0,
            cache_max_bytes=settings.cache_max_bytes,
            worked_ms=batch.worked_ms,
        )
        return [*arguments, *self._forwards, *self._ends, *self._retries, *self._letters]


_SUCCEEDED = str(State.SUCCEEDED)


def _not_storable(error: Exception) -> Ended:
    """The end of a request whose stage made something that the ledger cannot hold."""
    message = f"the stage's output cannot be stored: {type(error).__name__}: {error}"[:500]
    return Ended(State.DEAD, Failure(category="unknown", stage=None, message=message, retryable=False))
