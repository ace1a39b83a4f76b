"""What a worker holds of a request between claim and settle, and the outcomes it may settle."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pipeline.contracts.attempts import NO_ATTEMPTS, Attempts
from pipeline.contracts.lanes import ModelRef
from pipeline.contracts.stages import Priority, State
from pipeline.contracts.status import Failure


class Header(NamedTuple):
    """What was pinned at accept: the same for many requests."""

    model: str
    version: str
    digest: bytes
    pool: str
    priority: int
    timeout_ms: int
    generation: int
    allow_degraded: bool
    cache_s: float = 0
    """How long its answer may be given again, in seconds; 0: not at all."""

    @property
    def ref(self) -> ModelRef:
        """The pinned model version."""
        return ModelRef(self.model, self.version, self.digest.hex(), self.pool)

    @property
    def urgency(self) -> Priority:
        """The priority as its enum."""
        return Priority(self.priority)


class Links(NamedTuple):
    """What ties a request to others. ``flight``: the request whose computation it has joined, empty if it is its own.

    ``key``: its idempotency key and the digest of its body, 16 bytes each; empty without.
    ``cache_key``: the same 16 bytes for requests that one computation answers; empty if it stands apart.
    ``tenant``: its tenant's 8 bytes; empty if a release before tenants has accepted it.
    """

    flight: bytes = b""
    key: bytes = b""
    cache_key: bytes = b""
    tenant: bytes = b""


class Progress(NamedTuple):
    """What a request brings along from stage to stage.

    ``entered_ms``: when it began to wait for the present stage (Unix milliseconds, server's clock).
    ``timings``: ``[stage, waited_ms, worked_ms]`` of each stage passed. ``anomalies``: see the status document.
    ``scored_by``: the model version that answered in place of the pinned one; empty if that did itself.
    """

    entered_ms: float
    timings: Sequence[Sequence[Any]] = ()
    anomalies: Sequence[dict[str, Any]] = ()
    scored_by: str = ""


@dataclass(slots=True)
class Work:
    """One claimed request at one stage.

    ``body`` is the stage's input: the features (dict) for preprocess, the packed vector for scoring, the raw output for
    postprocess. ``blob`` is the stored form it came from, ``prefix`` its header and ties as stored; ``unreadable`` says
    why it could not be taken apart, if it could not. ``left_s``: seconds to its deadline when it was claimed.
    """

    id: bytes
    score: int
    header: Header
    progress: Progress
    body: Any
    blob: bytes
    attempts: Attempts = NO_ATTEMPTS
    unreadable: str = ""
    prefix: bytes = b""
    left_s: float = math.inf


@dataclass(slots=True)
class Output:
    """What a stage made of one request: the body for the next stage, or the result after the last.

    ``scored_by``: ``NAME@VERSION`` of the model that answered in place of the pinned one; the answer is degraded then.
    """

    body: Any
    anomalies: Sequence[dict[str, Any]] = ()
    scored_by: str = ""


@dataclass(slots=True)  # not frozen: there is one for each request, and frozen ones take three times as long to make
class Completed:
    """The stage is done with the request."""

    output: Output


@dataclass(frozen=True, slots=True)
class RetryLater:
    """Run it again after ``delay_ms``.

    ``attempts`` is charged already if ``charged``; then it goes as its lane's retry budget allows. Else what it waits
    for is no fault of its own, and ``reason`` names it.
    """

    delay_ms: int
    attempts: Attempts
    charged: bool = True
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Ended:
    """The request ends here without a result. ``dead`` ends leave a dead letter; the others do not."""

    state: State
    error: Failure
    attempts: Attempts = field(default=NO_ATTEMPTS)


Outcome = Completed | RetryLater | Ended
