"""The border between a worker and its stage's own code: whatever that raises comes out as what can be judged."""

from collections.abc import Callable
from typing import Protocol, TypeVar

from pipeline.contracts.failures import Panic, SoftLimit, describe
from pipeline.stage.isolation import usable
from pipeline.telemetry.events.stages import StageDoesNotSay

Answer = TypeVar("Answer")

TOO_LONG = "the batch ran longer than the soft time limit"


class Watch(Protocol):
    """Times the batches of a process, and knows which of them ran when the process dies."""

    def began(self, field: str) -> None:
        """Starts the time of the batch of this field of the claims; from here on it is charged if the process dies."""

    def overran(self) -> bool:
        """Whether the parent has said of the batch that runs now that it takes too long."""

    def ended(self) -> None:
        """Stops its time."""

    def settled(self) -> None:
        """Counts a batch as settled."""


class Guard:
    """Calls the stage's own code for one process."""

    def __init__(self, overran: Callable[[], bool], stopping: Callable[[], bool]) -> None:
        """``overran``: see ``Watch``. ``stopping``: whether this process has been told to end.

        What is raised then comes from the signal, not from the stage, and must not be charged to a request.
        """
        self._overran = overran
        self._stopping = stopping
        self.performing = False
        """Whether stage code runs whose time counts. Only then may a signal interrupt this process."""

    def call(
        self, stage_code: Callable[[], Answer], *, panicked: Callable[[BaseException], Panic], counts: bool = True
    ) -> Answer:
        """Returns what ``stage_code`` returns; raises an Exception that can be judged, or SystemExit when stopping.

        ``panicked`` makes the failure out of what is no Exception.
        ``counts``: this is the batch whose time runs. Only then, and only here, the soft limit interrupts this process.
        A soft limit that was reached between two such calls is raised at the next.
        """
        try:
            self.performing = counts
            try:
                if counts and self._overran():
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
            raise panicked(error) from None

    def ask(self, question: Callable[[], Answer], otherwise: Answer) -> Answer:
        """What the stage says of a model. ``otherwise`` if it fails at that: its batch will show what is wrong."""
        try:
            return question()
        except BaseException as error:
            if self._stopping():
                raise
            StageDoesNotSay(error=describe(error)).emit()
            return otherwise
