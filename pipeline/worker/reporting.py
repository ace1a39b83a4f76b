"""Events about the requests of a batch: one for each that failed, so that operators find them by request id.

A model that fails every row must not fill a disk: of one batch so many are told one by one, and the others are counted.
"""

from collections.abc import Sequence

from pipeline.contracts.ids import to_text
from pipeline.contracts.stages import State
from pipeline.contracts.work import Completed, Ended, Outcome, RetryLater, Work
from pipeline.ledger.workers.batch import Batch
from pipeline.ledger.workers.claims import ClaimLost
from pipeline.telemetry.events.requests import (
    TOLD,
    BatchLost,
    RequestDead,
    RequestInvalid,
    RequestPostponed,
    RequestRetried,
    RequestsLeftOut,
)


def report_failures(batch: Batch, outcomes: Sequence[Outcome]) -> None:
    """Emit what became of the requests of a settled batch that did not succeed; those that died come first."""
    if not batch.unstorable and set(map(type, outcomes)) <= {Completed}:
        return  # as mostly
    failed = [
        (work, final)
        for work, outcome in zip(batch.works, outcomes, strict=True)
        if not isinstance(final := batch.unstorable.get(work.id, outcome), Completed)
    ]
    failed.sort(key=lambda pair: not (isinstance(pair[1], Ended) and pair[1].state is State.DEAD))
    for work, outcome in failed[:TOLD]:
        _report(batch, work, outcome)
    if failed[TOLD:]:
        lane = batch.lane
        RequestsLeftOut(stage=str(lane.stage), model=lane.model.label, requests=len(failed) - TOLD).emit()


def _report(batch: Batch, work: Work, outcome: RetryLater | Ended) -> None:
    request_id, model, stage = to_text(work.id), batch.lane.model.label, str(batch.lane.stage)
    if isinstance(outcome, RetryLater):
        delay_s = outcome.delay_ms / 1000
        if outcome.charged:
            attempt, last = outcome.attempts.starts, outcome.attempts.errors[-1]
            RequestRetried(
                request_id=request_id,
                model=model,
                stage=stage,
                attempt=attempt,
                category=last.category,
                error=last.error,
                delay_s=delay_s,
            ).emit()
        else:
            attempt = work.attempts.starts + 1
            RequestPostponed(
                request_id=request_id,
                model=model,
                stage=stage,
                attempt=attempt,
                reason=outcome.reason,
                delay_s=delay_s,
            ).emit()
    else:
        ends = RequestDead if outcome.state is State.DEAD else RequestInvalid
        ends(
            request_id=request_id,
            model=model,
            stage=stage,
            attempt=outcome.attempts.starts or work.attempts.starts + 1,
            category=outcome.error["category"],
            error=outcome.error["message"],
        ).emit()


def report_lost(batch: Batch, lost: ClaimLost) -> None:
    """Emit that a batch was released to another worker while it ran."""
    BatchLost(
        model=batch.lane.model.label,
        stage=str(batch.lane.stage),
        reason=str(lost),
        requests=len(batch.works),
        request_ids=[to_text(work.id) for work in batch.works[:TOLD]],
    ).emit()
