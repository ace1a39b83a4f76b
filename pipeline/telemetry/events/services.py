"""What every service, and every process that uses a client, may say."""

from typing import Annotated

from pipeline.telemetry.event import CRITICAL, ERROR, INFO, WARNING, Event
from pipeline.telemetry.events.fields import Error, Text


class HealthServed(Event, level=INFO, by="worker, sweeper"):
    """The process answers `/livez` and `/readyz`."""

    url: Annotated[str, "where"]


class HealthFailed(Event, level=ERROR, by="worker, sweeper"):
    """The health port's server has failed; it begins again."""

    error: Error


class StoreRefuses(Event, level=CRITICAL, by="every service"):
    """The store's user lacks rights that this service needs; it ends."""

    reason: Annotated[str, "which, and the ACL rule that grants them"]


class DutyFailed(Event, level=ERROR, by="every service"):
    """What a process does again and again has failed in a way it had not before."""

    duty: Annotated[str, "what it does"]
    error: Error


class ApiFailed(Event, level=ERROR, by="api"):
    """A call was answered with 500."""

    error: Error


class NotificationsInterrupted(Event, level=WARNING, by="api, client"):
    """The channel of ends is down: calls that wait ask the store instead, until it is back."""

    error: Error


class ProcessCrashed(Event, level=CRITICAL, by="every service"):
    """The process ends with an error that nothing caught."""

    error: Error


class ThreadCrashed(Event, level=ERROR, by="every service"):
    """A thread has ended with an error that nothing caught."""

    thread: Annotated[str, "the thread's name"]
    error: Error


class ErrorDropped(Event, level=ERROR, by="every service"):
    """Python could not raise an error: it came in a finalizer, or while the process ends."""

    error: Error
    reason: Annotated[str, "where it came from"]


class StdoutText(Event, level=INFO, by="every service"):
    """A library has written to standard output."""

    text: Text


class StderrText(Event, level=WARNING, by="every service"):
    """A library, Python itself (stacks at a time limit) or native code has written to standard error."""

    text: Text


class LibraryMessage(Event, level=WARNING, by="every service"):
    """A library has logged something (Celery: each bell that is heard). Its level is the library's own."""

    logger: Annotated[str, "the library's logger"]
    message: Text
