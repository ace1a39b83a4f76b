"""The runner: what every worker of every stage does with a lane that has work.

    claim -> perform -> judge -> settle (rings the next stage and claims again) -> ... -> park -> return

Where a batch computes on a device, the next one is claimed and prepared meanwhile, and the one before it settled.
The bell is acknowledged when ``serve`` returns, after all commits. Nothing depends on it: whatever this process
leaves behind, dead or alive, the ledger knows, and the sweeper rings again.
"""

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol, TypeVar

from pipeline.contracts.failures import NotNow, Panic, SoftLimit, StageFailure, describe
from pipeline.contracts.lanes import Lane
from pipeline.contracts.stages import Stage
from pipeline.contracts.work import Completed, Ended, Outcome, Output, Work
from pipeline.ledger.keys import SCRIPT_LIMIT
from pipeline.ledger.result_cache import CacheFiller
from pipeline.ledger.workers.claims import Batch, ClaimLost, Claims
from pipeline.settings import Settings
from pipeline.stage.isolation import Performed, ends_process, isolate, usable
from pipeline.stage.protocols import DeviceService, Prepared, StageService
from pipeline.telemetry.events.stages import CacheNotFilled, StageDoesNotSay, StagePanicked
from pipeline.worker.judge import exhausted, judge
from pipeline.worker.reporting import report_failures, report_lost

Answer = TypeVar("Answer")


TOO_LONG = "the batch ran longer than the soft time limit"


class Watch(Protocol):
    """Who watches how long batches take, and knows which one ran when this process dies."""

    def began(self, field: str) -> None:
        """The batch of this field begins to run."""

    def overran(self) -> bool:
        """Whether the batch that runs has been told that it takes too long."""

    def ended(self) -> None:
        """It has run."""

    def settled(self) -> None:
        """It is settled."""


class Unfit(Exception):
    """This process can be trusted no more: everything is settled or can be given back, and it should end."""


@dataclass(slots=True)
class Served:
    """What one answered bell came to; Flower shows it as the task's result."""

    batches: int = 0
    requests: int = 0
    largest_batch: int = 0
    lost: int = 0


@dataclass(slots=True)
class Deadline:
    """How long a process stays on a lane; looked at after each batch, whatever that took. Monotonic seconds."""

    at: float

    @property
    def over(self) -> bool:
        """Whether to leave."""
        return time.monotonic() >= self.at


@dataclass(slots=True)
class _Run:
    """A claimed batch on its way. ``given_up``: the ends of those that may not run again; ``works``: the others."""

    batch: Batch
    given_up: list[Ended | None]
    works: list[Work]
    prepared: Prepared | None = None
    began: float = 0.0
    answers: list[Performed] = field(default_factory=list)
    panic: Panic | None = None
    """Something has panicked under it, in whatever part of it that was, and whether it did so again or not."""

    @property
    def unfit(self) -> StageFailure | None:
        """A failure after which this process can be trusted no more."""
        return next(filter(None, map(ends_process, self.answers)), self.panic)


class _Failed:
    """A batch that could not be prepared."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def launch(self) -> None:
        """Nothing to begin."""

    def collect(self) -> Sequence[Performed]:
        """Raise what went wrong."""
        raise self._error


class Runner:
    """Serves lanes for one process."""

    def __init__(
        self,
        service: StageService,
        claims: Claims,
        cache: CacheFiller | None,
        settings: Settings,
        watch: Watch,
        failpoint: Callable[[str], None] = lambda _: None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        """``failpoint`` is told of the steps at which tests kill this process (see ``pipeline/testing/failpoints.py``).

        ``stopping``: whether this process has been told to end, so that what is raised is not the stage's doing.
        """
        self._stopping = stopping
        self._failpoint = failpoint
        self._service = service
        self._device = service if isinstance(service, DeviceService) else None
        self._claims = claims
        self._cache = cache
        self._settings = settings
        self._watch = watch
        self._rng = random.Random()  # noqa: S311 - jitter, not a secret
        self.performing = False
        """Whether the stage's own code runs: the one time at which a signal may interrupt this process."""

    def serve(self, lane: Lane) -> Served:
        """Answer a bell; its ack follows."""
        served = self._serve(lane)
        self._failpoint("before-ack")
        return served

    def _serve(self, lane: Lane) -> Served:
        """Work on the lane until it is empty or ``lane_slice_s`` has passed, then park for more.

        Lingering keeps nobody out - it ends with a wake for whichever lane of the queue has work, and does not begin
        while another lane's bell waits there - so under light traffic one bell serves for ``bell_s``. Then the next job
        is rung for, whose worker is parked before a request comes: hardly one pays for Celery's hop.
        """
        served = Served()
        job_ends_at = time.monotonic() + self._settings.bell_s
        batch = self._claims.claim(lane, self._limit(lane), answers_bell=True)
        while True:
            deadline = Deadline(min(time.monotonic() + self._settings.lane_slice_s, job_ends_at))
            if batch is not None:
                self._work(batch, deadline, served)
            if deadline.over and not self._claims.parked:
                # Settle has rung if anything waits; if nothing does, the next job stands ready for it all the same.
                # Others get their turn first: this lane's bell comes behind theirs.
                self._claims.ring_successor(lane)
                return served
            woken = self._claims.park(lane, self._limit(lane), self._settings.park_s)
            if woken is None:
                return served
            if isinstance(woken, Batch):
                lane, batch = woken.lane, woken
            else:
                lane, batch = woken, self._claims.claim(woken, self._limit(woken), answers_bell=False)

    def _limit(self, lane: Lane) -> int:
        asked = self._ask(lambda: int(self._service.batch_limit(lane.model)), 1)
        # Whatever a manifest says: no script touches more.
        return max(1, min(asked, SCRIPT_LIMIT))

    def _ask(self, question: Callable[[], Answer], otherwise: Answer) -> Answer:
        """What the stage says of a model; if it fails at that, ``otherwise``: its batch will say what is wrong."""
        try:
            return question()
        except BaseException as error:
            if self._stopping():
                raise
            StageDoesNotSay(error=describe(error)).emit()
            return otherwise

    def _work(self, batch: Batch, deadline: Deadline, served: Served) -> None:
        """Run batches of a lane until it is empty or it is time to leave; held are the one that runs, and one staged.

        Unfit if one of them failed in a way that ends this process.
        """
        lane, device = batch.lane, self._device
        overlaps = device is not None and self._ask(lambda: bool(device.overlaps(lane.model)), otherwise=False)
        following: Batch | None = batch
        while following is not None:
            running = self._stage(following, alone=True)
            self._launch(running)
            staged = self._claimed_behind(running, deadline) if overlaps else None
            self._finish(running, served)
            while staged is not None:
                done, running = running, staged
                self._launch(running)
                # While it computes, the one before it is settled, and the one behind it staged.
                following = self._settle(done, served, claim_next=self._more(lane, deadline), idle=False)
                staged = self._stage(following, alone=False) if following is not None else None
                self._finish(running, served)
            following = self._settle(running, served, claim_next=self._more(lane, deadline), idle=True)

    def _more(self, lane: Lane, deadline: Deadline) -> int:
        """How many requests to claim next."""
        return 0 if deadline.over else self._limit(lane)

    def _claimed_behind(self, running: _Run, deadline: Deadline) -> _Run | None:
        """The next batch, staged, while the first of a job computes. A full one has left some behind, probably."""
        lane = running.batch.lane
        if deadline.over or len(running.batch.works) < self._limit(lane):
            return None
        batch = self._claims.claim(lane, self._limit(lane), answers_bell=False)
        return self._stage(batch, alone=False) if batch is not None else None

    def _finish(self, run: _Run, served: Served) -> None:
        """Wait for a batch; Unfit, with what is known settled, if nothing else may run here after it."""
        self._collect(run)
        if run.unfit is not None:
            try:
                self._settle(run, served, claim_next=0, idle=False)
            finally:
                # Even if the store did not answer: then the parent releases the batch, and charges it.
                raise Unfit(describe(run.unfit))

    def _stage(self, batch: Batch, *, alone: bool) -> _Run:
        """Set aside what may not run again, and prepare the rest where the stage has somewhere to bring it.

        ``alone``: no other batch runs. Then this takes of its own time: a model may have to be loaded.
        """
        self._failpoint("after-claim")
        given_up = [exhausted(work, batch.lane.stage, self._settings) for work in batch.works]
        run = _Run(batch, given_up, [work for work, end in zip(batch.works, given_up, strict=True) if end is None])
        if self._device is not None and run.works:
            if alone:
                self._watch.began(batch.field)
            prepare, model, works = self._device.prepare, batch.lane.model, run.works
            try:
                run.prepared = self._guarded(run, lambda: prepare(model, works), counts=alone)
            except Exception as error:  # noqa: BLE001 - judged when its turn has come
                run.prepared = _Failed(error)
        return run

    def _guarded(self, run: _Run, stage_code: Callable[[], Answer], *, counts: bool = True) -> Answer:
        """Run the stage's own code. Whatever it raises comes out as an Exception that can be judged.

        ``counts``: this is the batch whose time runs. Only then, and only here, the soft limit interrupts this process;
        one that was told of between two such calls is raised at the next.
        """
        try:
            self.performing = counts
            try:
                if counts and self._watch.overran():
                    raise SoftLimit(TOO_LONG)
                return stage_code()
            finally:
                self.performing = False
        except BaseException as error:
            if self._stopping():
                raise SystemExit from error
            if isinstance(error, Exception):
                failure = usable(error)
                if failure is error:
                    raise
                raise failure from None
            first, run.panic = run.panic is None, Panic(describe(error))
            if first:
                lane = run.batch.lane
                StagePanicked(stage=str(lane.stage), model=lane.model.label, error=str(run.panic)).emit(error)
            raise run.panic from None

    def _launch(self, run: _Run) -> None:
        """From here on at the latest the death of this process is on the batch's account, and its time counts."""
        run.began = time.monotonic()
        self._watch.began(run.batch.field)
        if run.prepared is not None:
            try:
                self._guarded(run, run.prepared.launch)
            except Exception as error:  # noqa: BLE001 - judged when its turn has come
                run.prepared = _Failed(error)

    def _collect(self, run: _Run) -> None:
        """The answers of a batch; what failed as a whole is searched for those who are guilty."""
        try:
            run.answers = self._answers(run)
        finally:
            self._watch.ended()
        run.batch.worked_ms = round((time.monotonic() - run.began) * 1000, 3)

    def _answers(self, run: _Run) -> list[Performed]:
        prepared, model, device = run.prepared, run.batch.lane.model, self._device

        def stage_code(works: Sequence[Work]) -> Sequence[Performed]:
            nonlocal prepared
            if device is None:
                return self._service.perform(model, [work.body for work in works])
            first, prepared = prepared, None
            if first is not None:
                return first.collect()
            again = device.prepare(model, works)
            again.launch()
            return again.collect()

        def perform(works: Sequence[Work]) -> list[Performed]:
            # It may be a generator, even one without an end.
            return self._guarded(run, lambda: list(islice(stage_code(works), len(works) + 1)))

        return isolate(perform, run.works)

    def _settle(self, run: _Run, served: Served, *, claim_next: int, idle: bool) -> Batch | None:
        """Judge what failed and settle the batch; the lane's next one if asked for.

        ``idle``: this process has nothing else to do, and parks if nothing more waits.
        """
        batch, stage = run.batch, run.batch.lane.stage
        served.batches += 1
        served.requests += len(batch.works)
        served.largest_batch = max(served.largest_batch, len(batch.works))
        outcomes = self._judged(run)
        try:
            following = self._claims.settle(
                batch,
                outcomes,
                claim_next=claim_next,
                model_runs=_model_runs(run) if stage is Stage.SCORING else {},
                idle=idle,
            )
        except ClaimLost as lost:
            # Whoever has the batch now will settle it; what we made of it is dropped.
            report_lost(batch, lost)
            served.lost += 1
            return None
        self._watch.settled()
        report_failures(batch, outcomes)
        self._failpoint("after-settle")
        if stage.following is None and self._cache is not None:
            try:
                self._cache.fill(batch.works, outcomes)
            except Exception as error:  # noqa: BLE001 - what is settled is settled, and the next batch is claimed
                CacheNotFilled(model=batch.lane.model.label).emit(error)
        return following

    def _judged(self, run: _Run) -> list[Outcome]:
        stage, now_ms = run.batch.lane.stage, run.batch.server_ms()
        answers = iter(run.answers)
        outcomes: list[Outcome] = []
        for work, end in zip(run.batch.works, run.given_up, strict=True):
            if end is not None:
                outcomes.append(end)
                continue
            answer = next(answers)
            if isinstance(answer, Output):
                outcomes.append(Completed(answer))
                continue
            outcomes.append(judge(answer, work, stage, now_ms, self._settings, self._rng))
        return outcomes


def _model_runs(run: _Run) -> dict[str, int]:
    """How many rows each model has run."""
    model = run.batch.lane.model
    own = f"{model.name}@{model.version}"
    return Counter(
        (isinstance(answer, Output) and answer.scored_by) or own
        for answer in run.answers
        if not isinstance(answer, NotNow)
    )
