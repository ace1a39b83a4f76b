"""The life of a batch, from its claim to the outcomes of its requests.

    stage    set aside the requests that may not run again; bring the others to the device, if the stage has one
    launch   begin to compute: from here on its time counts, and it is charged if this process dies
    collect  wait for the answers; search a batch that failed as a whole for the offending rows
    judge    give each request its outcome: completed, retried later or ended
    settle   write the outcomes, ring the next stage, and claim the next batch of the lane, all in one script

A stage without a device computes in ``collect``, one batch after the other. With a device, batches overlap: while one
computes, the batch before it is judged and settled, and the batch behind it is staged. Two are held at most, so that a
death of this process delays no more than that.

From its claim to its settle the batch stands in the ledger's claims. Wherever this process dies, its batches are
released from there, and other workers run them (see ``judge`` for what is charged). Four things can happen to a batch:

    settled    its outcomes are written, and the lane's next batch may be claimed with the same script
    lost       it was released meanwhile, and whoever claimed it then settles it: what was made of it here is dropped
    unfit      it was settled, but this process can be trusted no more: ``Unfit``, and another process takes over
    left       the store does not answer, or this process is told to end: that error leaves this module, and the claims
               are given back by the caller, or released by others
"""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NoReturn

from pipeline.contracts.failures import NotNow, StageFailure, describe
from pipeline.contracts.lanes import Lane
from pipeline.contracts.stages import Stage
from pipeline.contracts.work import Completed, Outcome, Output, Work
from pipeline.ledger.keys import SCRIPT_LIMIT
from pipeline.ledger.result_cache import CacheFiller
from pipeline.ledger.workers.batch import Batch
from pipeline.ledger.workers.claims import ClaimLost, Claims
from pipeline.settings import Settings
from pipeline.stage.isolation import Performed, isolate
from pipeline.stage.protocols import DeviceService, StageService
from pipeline.telemetry.events.stages import CacheNotFilled
from pipeline.worker.guard import Guard, Watch
from pipeline.worker.judge import exhausted, judge
from pipeline.worker.reporting import report_failures, report_lost
from pipeline.worker.run import NotPrepared, Run


class Unfit(Exception):
    """This process can be trusted no more and should end. All it holds is settled, or can be given back."""


@dataclass(slots=True)
class Served:
    """What one answered bell came to; Flower shows it as the task's result."""

    batches: int = 0
    requests: int = 0
    largest_batch: int = 0
    lost: int = 0

    def count(self, size: int) -> None:
        """Counts a batch of so many requests."""
        self.batches += 1
        self.requests += size
        self.largest_batch = max(self.largest_batch, size)


class Batches:
    """Runs batches for one process."""

    def __init__(
        self,
        service: StageService,
        guard: Guard,
        claims: Claims,
        cache: CacheFiller | None,
        settings: Settings,
        watch: Watch,
        failpoint: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        """``cache``: of results, if it is kept outside of the ledger. ``failpoint``, ``clock``: see ``Runner``."""
        self._service = service
        self._device = service if isinstance(service, DeviceService) else None
        self._guard = guard
        self._claims = claims
        self._cache = cache
        self._settings = settings
        self._watch = watch
        self._failpoint = failpoint
        self._clock = clock
        self._rng = random.Random()  # noqa: S311 - jitter, not a secret

    def work_off(self, batch: Batch, deadline: float, served: Served) -> None:
        """Runs a batch and those behind it, until the lane is empty or it is time to leave; Unfit, StoreError.

        ``deadline``: when to leave (monotonic seconds); looked at after each batch, whatever that took.
        """
        lane, overlaps = batch.lane, self._overlaps(batch.lane)
        run = self._stage(batch, alone=True)
        before: Run | None = None
        while True:
            self._launch(run)
            behind = self._meanwhile(run, before, deadline, served) if overlaps else None
            self._collect(run)
            if run.unfit is not None:
                self._end_process(run, run.unfit, served)
            before = run  # settled while the one behind it computes
            if behind is None:
                following = self._settle(run, served, claim_next=self._room(lane, deadline), idle=True)
                if following is None:
                    return
                behind, before = self._stage(following, alone=True), None
            run = behind

    def _meanwhile(self, run: Run, before: Run | None, deadline: float, served: Served) -> Run | None:
        """While ``run`` computes: settles the batch before it, and stages the one behind it."""
        lane, room = run.batch.lane, self._room(run.batch.lane, deadline)
        following = None
        if before is not None:
            following = self._settle(before, served, claim_next=room, idle=False)
        elif room and len(run.batch.works) >= room:  # one that was not full has probably left nothing behind
            following = self._claims.claim(lane, room, answers_bell=False)
        return None if following is None else self._stage(following, alone=False)

    def _end_process(self, run: Run, reason: StageFailure, served: Served) -> NoReturn:
        """Settles a batch after which nothing else may run here, and raises Unfit."""
        try:
            self._settle(run, served, claim_next=0, idle=False)
        finally:
            # Even if the store did not answer: then the parent releases the batch, and charges it.
            raise Unfit(describe(reason))

    def limit(self, lane: Lane) -> int:
        """How many requests a batch of this lane may hold."""
        asked = self._guard.ask(lambda: int(self._service.batch_limit(lane.model)), 1)
        # Whatever a manifest says: no script touches more.
        return max(1, min(asked, SCRIPT_LIMIT))

    def _room(self, lane: Lane, deadline: float) -> int:
        """How many requests to claim next: none when it is time to leave."""
        return 0 if self._clock() >= deadline else self.limit(lane)

    def _overlaps(self, lane: Lane) -> bool:
        """Whether batches of this lane overlap."""
        device = self._device
        return device is not None and self._guard.ask(lambda: bool(device.overlaps(lane.model)), otherwise=False)

    def _stage(self, batch: Batch, *, alone: bool) -> Run:
        """Sets aside what may not run again, and prepares the rest if the stage has a device.

        ``alone``: no other batch runs. Then this takes of its own time: a model may have to be loaded.
        """
        self._failpoint("after-claim")
        given_up = [exhausted(work, batch.lane.stage, self._settings) for work in batch.works]
        run = Run(batch, given_up, [work for work, end in zip(batch.works, given_up, strict=True) if end is None])
        if self._device is not None and run.works:
            if alone:
                self._watch.began(batch.field)
            prepare, model, works = self._device.prepare, batch.lane.model, run.works
            try:
                run.prepared = self._guard.call(lambda: prepare(model, works), panicked=run.panicked, counts=alone)
            except Exception as error:  # noqa: BLE001 - judged when its turn has come
                run.prepared = NotPrepared(error)
        return run

    def _launch(self, run: Run) -> None:
        """Begins to compute. From here on its time runs, and the batch is charged if this process dies."""
        run.began = self._clock()
        self._watch.began(run.batch.field)
        if run.prepared is not None:
            try:
                self._guard.call(run.prepared.launch, panicked=run.panicked)
            except Exception as error:  # noqa: BLE001 - judged when its turn has come
                run.prepared = NotPrepared(error)

    def _collect(self, run: Run) -> None:
        """Waits for the answers of a batch; what failed as a whole is searched for the offending rows."""
        prepared = run.prepared

        def stage_code(works: Sequence[Work]) -> Sequence[Performed]:
            nonlocal prepared
            if self._device is None:
                return self._service.perform(run.batch.lane.model, [work.body for work in works])
            computing, prepared = prepared, None
            if computing is None:  # a part of a batch that failed as a whole
                computing = self._device.prepare(run.batch.lane.model, works)
                computing.launch()
            return computing.collect()

        def perform(works: Sequence[Work]) -> list[Performed]:
            # One more than asked for is enough to see that they are too many: it may be a generator without an end.
            return self._guard.call(lambda: [*islice(stage_code(works), len(works) + 1)], panicked=run.panicked)

        try:
            run.answers = isolate(perform, run.works)
        finally:
            self._watch.ended()
        run.batch.worked_ms = round((self._clock() - run.began) * 1000, 3)

    def _judge(self, run: Run) -> list[Outcome]:
        """The outcome of each request of a batch, in order."""
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

    def _settle(self, run: Run, served: Served, *, claim_next: int, idle: bool) -> Batch | None:
        """Judges a batch and writes its outcomes. Returns the lane's next batch, if one was asked for and waits.

        ``idle``: this process has nothing else to do, and parks if nothing more waits.
        """
        batch = run.batch
        served.count(len(batch.works))
        outcomes = self._judge(run)
        try:
            following = self._claims.settle(
                batch, outcomes, claim_next=claim_next, model_runs=_model_runs(run), idle=idle
            )
        except ClaimLost as lost:
            report_lost(batch, lost)
            served.lost += 1
            return None
        self._watch.settled()
        report_failures(batch, outcomes)
        self._failpoint("after-settle")
        if self._cache is not None and batch.lane.stage.following is None:
            try:
                self._cache.fill(batch.works, outcomes)
            except Exception as error:  # noqa: BLE001 - the batch is settled all the same, and the next one is claimed
                CacheNotFilled(model=batch.lane.model.label).emit(error)
        return following


def _model_runs(run: Run) -> dict[str, int]:
    """How many rows each model has run, as ``NAME@VERSION``. Only scoring runs models."""
    lane = run.batch.lane
    if lane.stage is not Stage.SCORING:
        return {}
    own = f"{lane.model.name}@{lane.model.version}"
    return Counter(
        (isinstance(answer, Output) and answer.scored_by) or own
        for answer in run.answers
        if not isinstance(answer, NotNow)
    )
