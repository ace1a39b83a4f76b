"""A claimed batch on its way through a worker: what is known of it between two steps of its life (see ``batches``)."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.contracts.failures import Panic, StageFailure, describe
from pipeline.contracts.work import Ended, Work
from pipeline.ledger.workers.batch import Batch
from pipeline.stage.isolation import Performed, ends_process
from pipeline.stage.protocols import Prepared
from pipeline.telemetry.events.stages import StagePanicked


@dataclass(slots=True)
class Run:
    """A claimed batch on its way. ``given_up``: for each request its end if it may not run again, else None.

    ``works``: the requests that run; ``answers``: what the stage made of them, in the same order.
    """

    batch: Batch
    given_up: list[Ended | None]
    works: list[Work]
    prepared: Prepared | None = None
    began: float = 0.0
    answers: list[Performed] = field(default_factory=list)
    panic: Panic | None = None
    """What panicked under it, at whatever step, even if the same rows ran well after that."""

    @property
    def unfit(self) -> StageFailure | None:
        """A failure after which this process can be trusted no more."""
        return next(filter(None, map(ends_process, self.answers)), self.panic)

    def panicked(self, error: BaseException) -> Panic:
        """The failure that stands for what is no Exception. Only the first of a batch is reported, with its stack."""
        first, self.panic = self.panic is None, Panic(describe(error))
        if first:
            lane = self.batch.lane
            StagePanicked(stage=str(lane.stage), model=lane.model.label, error=str(self.panic)).emit(error)
        return self.panic


class NotPrepared:
    """Stands for a batch that could not be staged or launched: it fails when it is collected."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def launch(self) -> None:
        """Begins nothing."""

    def collect(self) -> Sequence[Performed]:
        """Raises what went wrong."""
        raise self._error
