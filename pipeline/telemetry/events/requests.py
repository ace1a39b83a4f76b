"""What happens to requests, one by one and as batches."""

from collections.abc import Sequence
from typing import Annotated

from pipeline.telemetry.event import INFO, WARNING, Event
from pipeline.telemetry.events.fields import (
    Attempt,
    Category,
    Error,
    Model,
    Pid,
    Reason,
    RequestId,
    RequestIds,
    Requests,
    Stage,
)

TOLD = 10
"""Requests of one batch that are told one by one; the others are counted (``RequestsLeftOut``)."""


class RequestRetried(Event, level=INFO, by="worker"):
    """An attempt has failed, and another follows."""

    request_id: RequestId
    model: Model
    stage: Stage
    attempt: Attempt
    category: Category
    error: Error
    delay_s: Annotated[float, "seconds until the next attempt, at least"]


class RequestPostponed(Event, level=INFO, by="worker"):
    """What the request needs is down. It waits, and no attempt is charged."""

    request_id: RequestId
    model: Model
    stage: Stage
    attempt: Attempt
    reason: Reason
    delay_s: Annotated[float, "seconds until it runs again, at least"]


class RequestInvalid(Event, level=INFO, by="worker"):
    """The request ends as `invalid`: its input breaks the model's schema."""

    request_id: RequestId
    model: Model
    stage: Stage
    attempt: Attempt
    category: Category
    error: Error


class RequestDead(Event, level=WARNING, by="worker"):
    """The request ends as `dead`, and a dead letter keeps it: attempts used up, no use in another, or unreadable."""

    request_id: RequestId
    model: Model
    stage: Stage
    attempt: Attempt
    category: Category
    error: Error


class RequestExpired(Event, level=INFO, by="sweeper"):
    """The request ends as `expired`: its deadline passed before scoring claimed it."""

    request_id: RequestId
    model: Model
    attempt: Annotated[int, "how many attempts have failed before"]
    error: Error


class RequestsLeftOut(Event, level=WARNING, by="worker, sweeper"):
    """More requests of one batch have failed or expired than are told one by one."""

    stage: Annotated[str, "stage of the batch; empty: deadlines"]
    model: Annotated[str, "NAME@VERSION; empty: several"]
    requests: Annotated[int, "how many are not told one by one"]


class RequestNotExpired(Event, level=WARNING, by="sweeper"):
    """A request whose deadline has passed could not be ended; the next round tries again."""

    request_id: RequestId
    error: Error


class RequestsReopened(Event, level=WARNING, by="sweeper"):
    """Requests that stood nowhere, because a script was stopped on its way, wait in their lane again."""

    requests: Requests


class BatchLost(Event, level=WARNING, by="worker"):
    """A batch was released to another worker while it ran; what was made of it is dropped."""

    model: Model
    stage: Stage
    reason: Reason
    requests: Requests
    request_ids: RequestIds


class ClaimsReleased(Event, level=WARNING, by="worker"):
    """The claims of a child that has died went back to their lanes; the batch that ran is charged with an attempt."""

    pid: Pid
    requests: Requests
    lane: Annotated[str, "lane of the batch that ran; empty if none did"]
    request_ids: Annotated[Sequence[str], "ids of the batch that ran, the first ten at most"]


class ClaimsOwed(Event, level=WARNING, by="worker"):
    """Claims could not be given back while the store is away: that is tried until it succeeds."""

    error: Error
