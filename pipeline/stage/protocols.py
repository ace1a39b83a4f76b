"""A stage's own code, as a worker sees it."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from pipeline.contracts.lanes import ModelRef
from pipeline.contracts.stages import Stage
from pipeline.contracts.work import Work
from pipeline.stage.isolation import Performed


class StageService(Protocol):
    """A stage's own code, as the runner sees it."""

    stage: Stage

    def batch_limit(self, model: ModelRef) -> int:
        """How many requests of this model version one batch may hold."""

    def perform(self, model: ModelRef, bodies: Sequence[Any]) -> Sequence[Performed]:
        """One output for each body, in order, or the failure of that row. Raising fails the whole batch."""


class Prepared(Protocol):
    """A batch on its way through a stage."""

    def launch(self) -> None:
        """Begin to compute. May return before it is done; what fails here is raised by ``collect``."""

    def collect(self) -> Sequence[Performed]:
        """Wait until it is done: what ``perform`` would return, or raise."""


@runtime_checkable
class DeviceService(StageService, Protocol):
    """A stage that computes somewhere else than in the thread that claims and settles."""

    def overlaps(self, model: ModelRef) -> bool:
        """Whether it pays to claim and prepare a batch of this model while another one computes."""

    def prepare(self, model: ModelRef, works: Sequence[Work]) -> Prepared:
        """Bring a batch to where it will compute. Raising fails the whole batch."""
