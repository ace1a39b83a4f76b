"""What can go wrong inside a stage. The class of an exception says what becomes of the request.

A stage raises one of these, or returns one in the place of a single row's output. Everything else that escapes
a stage is judged by ``pipeline.judge``.
"""

from typing import ClassVar


class StageFailure(Exception):
    """Root of the failures a stage declares. ``category`` is the word in documents and counters.

    ``retryable``: trying again can help. ``whole_batch``: the cause is not one row, so splitting the batch is useless.
    """

    category: ClassVar[str] = "unknown"
    retryable: ClassVar[bool] = True
    whole_batch: ClassVar[bool] = False


class InvalidInput(StageFailure):
    """The producer's input breaks the model's schema. Ends the request as ``invalid``."""

    category = "input"
    retryable = False


class NumericFailure(StageFailure):
    """The model gave NaN or infinity for this row. The same input gives the same again."""

    category = "numeric"
    retryable = False


class ArtifactCorrupt(StageFailure):
    """A model's file is not what its manifest says, or the manifest is not what was pinned."""

    category = "model"
    retryable = False
    whole_batch = True


class ArtifactMissing(StageFailure):
    """The model store has no such version here (yet): another worker or a later moment may."""

    category = "model"
    whole_batch = True


class OutsideDown(StageFailure):
    """Something outside that the stage needs does not answer, and is left alone for a while: its breaker is open.

    Costs no attempt: the request waits ``pause_s``.
    """

    category = "network"
    whole_batch = True

    def __init__(self, name: str, pause_s: float) -> None:
        super().__init__(f"{name} does not answer: left alone for {pause_s:g} s")
        self.pause_s = pause_s


class SoftLimit(StageFailure):
    """The batch ran longer than the soft time limit. Its rows run one by one next time."""

    category = "hang"
    whole_batch = True
