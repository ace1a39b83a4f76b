"""The runner: what every worker of every stage does with a lane that has work.

    claim -> perform -> judge -> settle (rings the next stage and claims again) -> ... -> linger -> return

The bell is acknowledged when ``serve`` returns, after all commits. Nothing depends on it: whatever this process
leaves behind, dead or alive, the ledger knows, and the sweeper rings again.
"""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from pipeline.contracts.failures import SoftLimit, StageFailure
from pipeline.contracts.lanes import Lane, ModelRef
from pipeline.contracts.stages import Stage
from pipeline.contracts.work import Completed, Outcome, Output
from pipeline.judge import exhausted, judge
from pipeline.ledger.cache import CacheFiller
from pipeline.ledger.claiming import Batch, ClaimLost, Claims
from pipeline.ledger.keys import SCRIPT_LIMIT
from pipeline.settings import Settings

log = structlog.get_logger()

Performed = Output | BaseException


class StageService(Protocol):
    """A stage's own code, as the runner sees it."""

    stage: Stage

    def batch_limit(self, model: ModelRef) -> int:
        """How many requests of this model version one batch may hold."""

    def perform(self, model: ModelRef, bodies: Sequence[Any]) -> Sequence[Performed]:
        """One output for each body, in order, or the failure of that row. Raising fails the whole batch."""


@dataclass(slots=True)
class Served:
    """What one answered bell came to; Flower shows it as the task's result."""

    batches: int = 0
    requests: int = 0
    largest_batch: int = 0
    lost: int = 0


@dataclass(slots=True)
class Stay:
    """How long a process stays on a lane; looked at after each batch, whatever that took. Monotonic seconds."""

    leave_at: float

    @property
    def over(self) -> bool:
        """Whether to leave."""
        return time.monotonic() >= self.leave_at

    def end(self) -> None:
        """Leave now."""
        self.leave_at = 0.0


class Runner:
    """Serves lanes for one process."""

    def __init__(
        self,
        service: StageService,
        claims: Claims,
        cache: CacheFiller | None,
        settings: Settings,
        reached: Callable[[str], None] = lambda _: None,
    ) -> None:
        """``reached`` is told of the steps at which tests kill this process (see ``tasks/failpoints.py``)."""
        self._reached = reached
        self._service = service
        self._claims = claims
        self._cache = cache
        self._settings = settings
        self._rng = random.Random()  # noqa: S311 - jitter, not a secret

    def serve(self, lane: Lane) -> Served:
        """Answer a bell; its ack follows."""
        served = self._serve(lane)
        self._reached("before-ack")
        return served

    def _serve(self, lane: Lane) -> Served:
        """Work on the lane until it is empty or ``stay_s`` has passed, then linger for more.

        Lingering keeps nobody out - it ends with a wake for whichever lane of the queue has work, and does not begin
        while another lane's bell waits there - so under light traffic one bell serves for ``job_s``, and few requests
        pay for Celery's hop.
        """
        served = Served()
        job_ends_at = time.monotonic() + self._settings.job_s
        batch = self._claims.claim(lane, self._limit(lane), answers_bell=True)
        while True:
            stay = Stay(min(time.monotonic() + self._settings.stay_s, job_ends_at))
            while batch is not None:
                served.batches += 1
                served.requests += len(batch.works)
                served.largest_batch = max(served.largest_batch, len(batch.works))
                batch = self._run(batch, stay, served)
            if stay.over and not self._claims.lingers:
                # Settle has rung if anything waits: others get their turn, this process the next bell.
                return served
            woken = self._claims.linger(lane, self._limit(lane), self._settings.linger_s)
            if woken is None:
                return served
            if isinstance(woken, Batch):
                lane, batch = woken.lane, woken
            else:
                lane, batch = woken, self._claims.claim(woken, self._limit(woken), answers_bell=False)

    def _limit(self, lane: Lane) -> int:
        # Whatever a manifest says: no script touches more.
        return max(1, min(self._service.batch_limit(lane.model), SCRIPT_LIMIT))

    def _run(self, batch: Batch, stay: Stay, served: Served) -> Batch | None:
        """Perform, judge and settle one batch; the next one, if the lane has it and we stay."""
        self._reached("after-claim")
        stage, settings = batch.lane.stage, self._settings
        self._claims.begin(batch)
        given_up = [exhausted(work, stage, settings) for work in batch.works]
        bodies = [work.body for work, end in zip(batch.works, given_up, strict=True) if end is None]
        answers = isolate(lambda part: self._service.perform(batch.lane.model, part), bodies)
        if any(isinstance(answer, SoftLimit) for answer in answers):
            stay.end()  # this job has used up its time; another batch would pay for it
        performed = iter(answers)
        now_ms = batch.server_ms()
        outcomes: list[Outcome] = []
        for work, end in zip(batch.works, given_up, strict=True):
            if end is not None:
                outcomes.append(end)
                continue
            answer = next(performed)
            if isinstance(answer, Output):
                outcomes.append(Completed(answer))
                continue
            outcome = judge(answer, work, stage, now_ms, settings, self._rng)
            log.info("stage_failed", stage=str(stage), outcome=type(outcome).__name__, error=str(answer)[:200])
            outcomes.append(outcome)
        try:
            following = self._claims.settle(
                batch,
                outcomes,
                claim_next=0 if stay.over else self._limit(batch.lane),
                model_runs=len(bodies) if stage is Stage.SCORING else 0,
            )
        except ClaimLost as lost:
            # Whoever has the batch now will settle it; what we made of it is dropped.
            log.warning("claim_lost", reason=str(lost))
            served.lost += 1
            return None
        self._reached("after-settle")
        if stage.following is None and self._cache is not None:
            self._cache.fill(batch.works, outcomes)
        return following


def isolate(perform: Callable[[Sequence[Any]], Sequence[Performed]], bodies: Sequence[Any]) -> list[Performed]:
    """Outputs of ``bodies``; when a batch raises, halve it until the rows that raise stand alone.

    One guilty row in n costs at most 2*log2(n) extra passes. A failure that says it is not about one row
    (``whole_batch``) is every row's.
    """
    if not bodies:
        return []
    try:
        answers = list(perform(bodies))
        if len(answers) != len(bodies):
            raise RuntimeError(f"the stage returned {len(answers)} outputs for {len(bodies)} inputs")
        return answers
    except Exception as error:  # noqa: BLE001 - whatever a stage raises is judged, not passed on
        if len(bodies) == 1 or (isinstance(error, StageFailure) and error.whole_batch):
            return [error] * len(bodies)
        middle = len(bodies) // 2
        return isolate(perform, bodies[:middle]) + isolate(perform, bodies[middle:])
