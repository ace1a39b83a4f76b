"""What goes wrong inside the stages, with their models and with what they depend on."""

from typing import Annotated

from pipeline.telemetry.event import ERROR, WARNING, Event
from pipeline.telemetry.events.fields import Device, Error, Model, Reason, Stage


class StageDoesNotSay(Event, level=WARNING, by="worker"):
    """A stage has failed when it was asked how to batch a model."""

    error: Error


class StagePanicked(Event, level=ERROR, by="worker"):
    """A stage has raised what is no Exception; the process is replaced once the batch is settled."""

    stage: Stage
    model: Model
    error: Error


class CacheNotFilled(Event, level=ERROR, by="worker"):
    """The outcomes of a settled batch could not be put into the result cache."""

    model: Model


class ModelNotReady(Event, level=WARNING, by="scoring worker"):
    """A model version cannot be served by this worker."""

    model: Model
    reason: Reason


class WarmUpFailed(Event, level=WARNING, by="scoring worker"):
    """The model's example has failed in a batch of a size that no request has had yet."""

    model: Model
    batch: Annotated[int, "rows"]
    reason: Reason


class AnswersDifferByBlock(Event, level=WARNING, by="scoring worker"):
    """The device gives the example other bits in blocks of another size: all blocks have one size from now on."""

    model: Model
    device: Device
    batch: Annotated[int, "rows of the batch that differed"]


class BatchSizeLearned(Event, level=WARNING, by="scoring worker"):
    """A block did not fit into the device's memory: larger ones are not tried again."""

    model: Model
    device: Device
    padded: Annotated[int, "largest block, in rows times their padded length"]


class BreakerChanged(Event, level=WARNING, by="worker, api, client"):
    """A circuit breaker has opened, half-opened or closed."""

    breaker: Annotated[str, "what it guards"]
    state: Annotated[str, "`open`, `half-open` or `closed`"]
