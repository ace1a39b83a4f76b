"""What can go wrong inside a stage. The class of an exception says what becomes of the request.

A stage raises one of these, or returns one in the place of a single row's output. Everything else that escapes
a stage is judged by ``pipeline.worker.judge``; what torch raises is one of these by then (``scoring.failures``).

================= =========== ========= ============================================================
class             category    again     what it means
================= =========== ========= ============================================================
InvalidInput      input       no        the producer's fault: the request ends as ``invalid``
NumericFailure    numeric     no        NaN or infinity for this row
OutOfMemory       oom         no        this row does not fit, even alone
MemoryGone        oom         yes       nothing fits any more: the process is replaced
CudaFault         cuda        yes       the device's context is spoilt: the process is replaced
DeviceLost        device_lost yes       the device does not answer, or is broken: the same
Collective        collective  yes       devices that work together have lost each other: the same
SoftLimit         hang        yes       the batch ran longer than the soft limit: the same
Panic             crash       yes       a library has panicked, or the stage ended its process: the same
ArtifactCorrupt   model       no        a file is not what its manifest says, or cannot be run
ArtifactMissing   model       yes       the model store has no such version here (yet)
NotNow            network     yes, free what it needs is down, or left alone for a while
================= =========== ========= ============================================================

Of the process itself: ``crash`` (it died), ``hang`` (it was killed at the hard limit).
"""

from typing import ClassVar

MESSAGE_LIMIT = 500


class StageFailure(Exception):
    """Root of the failures a stage declares. ``category`` is the word in documents and counters.

    ``retryable``: trying again can help. ``whole_batch``: the cause is not one row, so splitting the batch is useless.
    ``ends_process``: this process can be trusted no more; it is replaced once the batch is settled, and its rows run
    one by one, for one of them may be the cause.
    """

    category: ClassVar[str] = "unknown"
    retryable: ClassVar[bool] = True
    whole_batch: ClassVar[bool] = False
    ends_process: ClassVar[bool] = False


class InvalidInput(StageFailure):
    """The producer's input breaks the model's schema. Ends the request as ``invalid``."""

    category = "input"
    retryable = False


class NumericFailure(StageFailure):
    """The model gave NaN or infinity for this row. The same input gives the same again."""

    category = "numeric"
    retryable = False


class OutOfMemory(StageFailure):
    """The row does not fit into the device's memory, even alone, and another would."""

    category = "oom"
    retryable = False


class MemoryGone(StageFailure):
    """Nothing fits into the device's memory any more, not even the smallest input."""

    category = "oom"
    whole_batch = True
    ends_process = True


class CudaFault(StageFailure):
    """A kernel failed in a way that spoils the process's context on the device (an illegal access, an assertion)."""

    category = "cuda"
    whole_batch = True
    ends_process = True


class DeviceLost(StageFailure):
    """The device has gone, or says that it is broken."""

    category = "device_lost"
    whole_batch = True
    ends_process = True


class Collective(StageFailure):
    """Devices that compute one batch together have lost each other."""

    category = "collective"
    whole_batch = True
    ends_process = True


class SoftLimit(StageFailure):
    """The batch ran longer than the soft time limit."""

    category = "hang"
    whole_batch = True
    ends_process = True


class Panic(StageFailure):
    """The stage raised what is no Exception: a library written in Rust has panicked, or something called sys.exit.

    It is about one row: the others of its batch still run here, and then the process is replaced.
    """

    category = "crash"
    ends_process = True


class ArtifactCorrupt(StageFailure):
    """A model's file is not what its manifest says, or the manifest is not what was pinned."""

    category = "model"
    retryable = False
    whole_batch = True


class ArtifactMissing(StageFailure):
    """The model store has no such version here (yet): another worker or a later moment may."""

    category = "model"
    whole_batch = True


class NotNow(StageFailure):
    """What the batch needs is down, or left alone for a while. Costs no attempt: the request waits ``pause_s``."""

    category = "network"
    whole_batch = True

    def __init__(self, message: str, pause_s: float) -> None:
        super().__init__(message)
        self.pause_s = pause_s


class DependencyDown(NotNow):
    """Something outside that the stage needs does not answer: its breaker is open."""

    def __init__(self, name: str, pause_s: float) -> None:
        super().__init__(f"{name} does not answer: left alone for {pause_s:g} s", pause_s)


def describe(error: BaseException) -> str:
    """One line about the error, for people; bounded, because it is stored. Never raises, whatever the error does."""
    try:
        text = str(error)[: MESSAGE_LIMIT + 1]
        if not isinstance(error, StageFailure):
            text = f"{type(error).__name__}: {text}"
    except BaseException as worse:  # noqa: BLE001 - its own text is a foreign library's code
        text = f"an error that raises {type(worse).__name__} when it is asked for its text"
    text = text.encode("utf-8", "replace").decode()  # a lone surrogate could be stored, and then read by nobody
    return text if len(text) <= MESSAGE_LIMIT else text[: MESSAGE_LIMIT - 1] + "…"
