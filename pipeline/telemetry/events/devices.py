"""What is wrong with the device that a scoring worker computes on."""

from collections.abc import Sequence
from typing import Annotated

from pipeline.telemetry.event import CRITICAL, ERROR, INFO, WARNING, Event
from pipeline.telemetry.events.fields import Device, Error, Reason


class NoGpuFound(Event, level=INFO, by="scoring worker"):
    """No GPU was found, and none is asked for: the worker runs on the CPU."""

    reason: Reason


class RunsOnCpu(Event, level=WARNING, by="scoring worker"):
    """There is a GPU that torch cannot use: the worker runs on the CPU."""

    wanted: Annotated[str, "the GPU"]
    reason: Reason


class DeviceChanged(Event, level=WARNING, by="scoring worker"):
    """The device's health has changed."""

    state: Annotated[str, "`healthy`, `suspect` or `sick`"]
    reasons: Annotated[Sequence[str], "what speaks for it"]


class DeviceSick(Event, level=CRITICAL, by="scoring worker"):
    """The worker ends because its device is sick: its claims are given back, uncharged. Drain the node."""

    device: Device
    reasons: Annotated[Sequence[str], "what speaks for it"]


class CanaryFailed(Event, level=ERROR, by="scoring worker"):
    """The canary has failed on an idle device; the process ends."""

    device: Device
    error: Error
