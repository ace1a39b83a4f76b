"""What a worker asks of a stage's own code: with a device (``DeviceService``) or without (``StageService``)."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from pipeline.contracts.lanes import ModelRef
from pipeline.contracts.stages import Stage
from pipeline.contracts.work import Work
from pipeline.stage.isolation import Performed


class StageService(Protocol):
    """A stage that computes in the thread that claims and settles."""

    stage: Stage

    def batch_limit(self, model: ModelRef) -> int:
        """How many requests of this model version one batch may hold."""

    def perform(self, model: ModelRef, bodies: Sequence[Any]) -> Sequence[Performed]:
        """Returns for each body, in order, its output or its failure. Raising fails the whole batch."""


class Prepared(Protocol):
    """A batch that has been brought to a device."""

    def launch(self) -> None:
        """Begins to compute, and may return before that is done. What it raises is judged after ``collect``."""

    def collect(self) -> Sequence[Performed]:
        """Waits until it is done, and returns or raises what ``perform`` would."""


@runtime_checkable
class DeviceService(StageService, Protocol):
    """A stage that computes elsewhere than in the thread that claims and settles, such as on a GPU."""

    def overlaps(self, model: ModelRef) -> bool:
        """Whether to claim and prepare a batch of this model while another one computes."""

    def prepare(self, model: ModelRef, works: Sequence[Work]) -> Prepared:
        """Brings a batch to where it will compute. Raising fails the whole batch."""
