"""What sweepers find and do."""

from typing import Annotated

from pipeline.telemetry.event import CRITICAL, ERROR, INFO, WARNING, Event
from pipeline.telemetry.events.fields import Error, Incarnation, Requests, Sweeper


class SweeperLeads(Event, level=INFO, by="sweeper"):
    """This sweeper leads from now on."""

    sweeper: Sweeper


class SweeperStandsBy(Event, level=INFO, by="sweeper"):
    """Another sweeper leads."""

    sweeper: Sweeper


class SweepFailed(Event, level=WARNING, by="sweeper"):
    """A round has failed because the store did not answer."""

    error: Error


class SweepStepFailed(Event, level=ERROR, by="sweeper"):
    """One step of a round has failed; the others go on."""

    step: Annotated[str, "the step's function"]


class StoreClockJumped(Event, level=WARNING, by="sweeper"):
    """The store's clock has jumped ahead; silence of workers counts from now on."""

    ahead_s: Annotated[float, "by how much, in seconds"]


class StoreClockBehind(Event, level=WARNING, by="sweeper"):
    """The store's clock is behind the ledger's, which never goes back."""

    seconds: Annotated[float, "by how much, in seconds"]


class RetryBudgetUsedUp(Event, level=WARNING, by="sweeper"):
    """Retries that are due wait, because their lanes have used up their budget."""

    held_back: Annotated[int, "how many wait"]


class FlightsFannedOut(Event, level=INFO, by="sweeper"):
    """Requests got an outcome that their worker had computed, and died before it could give it to all."""

    requests: Requests


class WorkerDead(Event, level=WARNING, by="sweeper"):
    """A worker fell silent: it is fenced and its claims go back to their lanes."""

    incarnation: Incarnation
    released: Requests


class BatchOverdue(Event, level=WARNING, by="sweeper"):
    """Batches ran past the hard limit under workers that still beat: they go back to their lanes."""

    released: Requests


class LaneRung(Event, level=INFO, by="sweeper"):
    """Work waited in a lane that nobody claimed from: its bell is rung again."""

    lane: Annotated[str, "name of the lane"]


class DegradedModeBegins(Event, level=WARNING, by="sweeper"):
    """Fewer than half of the expected scoring workers live: low priority is refused."""

    live: Annotated[int, "scoring workers that live"]
    expected: Annotated[int, "how many are expected"]


class DegradedModeEnds(Event, level=INFO, by="sweeper"):
    """Enough scoring workers live again."""

    live: Annotated[int, "scoring workers that live"]
    expected: Annotated[int, "how many are expected"]


class MemoryUnknown(Event, level=WARNING, by="sweeper"):
    """The store refuses to say how much memory it uses."""

    error: Error
    reason: Annotated[str, "what to do"]


class AppendOnlyFileRewritten(Event, level=WARNING, by="sweeper"):
    """The store rewrites its append-only file, because a write to it had failed."""


class AppendOnlyFileNotRewritten(Event, level=CRITICAL, by="sweeper"):
    """The append-only file has a hole, and the store refuses to rewrite it: it could not be loaded."""

    error: Error
    reason: Annotated[str, "what to do"]
