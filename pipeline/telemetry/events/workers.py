"""The life of workers and of their children."""

from typing import Annotated

from pipeline.telemetry.event import CRITICAL, ERROR, WARNING, Event
from pipeline.telemetry.events.fields import Error, Incarnation, Pid, Reason, Seconds, Stage


class ChildNotStarted(Event, level=ERROR, by="worker"):
    """A child could not load its stage; the worker ends."""

    stage: Stage


class ChildNotReady(Event, level=ERROR, by="worker"):
    """A child took too long to start, and is killed."""

    pid: Pid
    seconds: Seconds


class ChildDied(Event, level=WARNING, by="worker"):
    """A child has ended; its claims are released next."""

    pid: Pid
    signal: Annotated[str, "name of the signal that killed it; empty if it exited"]


class ChildReplaced(Event, level=WARNING, by="worker"):
    """A child has ended between two batches, so that a fresh one takes its place."""

    pid: Pid
    reason: Reason


class ChildMemoryHigh(Event, level=WARNING, by="worker"):
    """A child uses more than 80 % of the memory at which it is replaced."""

    pid: Pid
    used_mb: Annotated[int, "MiB that it uses"]
    cap_mb: Annotated[int, "MiB at which it is replaced"]


class BatchInterrupted(Event, level=WARNING, by="worker"):
    """A batch ran longer than the soft limit: its stage is interrupted."""

    pid: Pid
    seconds: Seconds


class BatchKilled(Event, level=ERROR, by="worker"):
    """A batch ran longer than the hard limit: its process is killed."""

    pid: Pid
    seconds: Seconds


class ProcessEnds(Event, level=ERROR, by="worker"):
    """A child ends itself, because it can be trusted no more or met an unknown error; it is replaced."""

    reason: Reason


class WorkerDied(Event, level=WARNING, by="worker"):
    """One of the workers of a machine with several GPUs has ended; it is started again."""

    device: Annotated[int, "index of its GPU"]
    code: Annotated[int, "exit code"]


class WorkerDeaf(Event, level=CRITICAL, by="worker"):
    """Bells wait and the worker hears none: it ends, and its supervisor starts another."""

    queue: Annotated[str, "where the bells wait"]
    seconds: Seconds


class WorkerDidNotStop(Event, level=CRITICAL, by="worker"):
    """The worker was told to stop and has not: it ends at once."""

    seconds: Seconds


class ThreadStack(Event, level=CRITICAL, by="worker"):
    """Where a thread of a process that ends stands."""

    thread: Annotated[str, "the thread's name"]
    stack: Annotated[str, "its frames"]


class StandbyChanged(Event, level=WARNING, by="scoring worker"):
    """A standby has begun or ceased to claim."""

    serves: Annotated[bool, "whether it claims"]
    live: Annotated[int, "regular scoring workers that live"]
    expected: Annotated[int, "how many are expected"]


class IncarnationFenced(Event, level=WARNING, by="worker"):
    """The worker fell silent, and what it held went to others; it goes on under a new name."""

    fenced: Incarnation
    renamed: Incarnation


class HeartbeatFailed(Event, level=WARNING, by="worker"):
    """A heartbeat did not reach the store."""

    error: Error


class SignOffFailed(Event, level=WARNING, by="worker"):
    """A worker that stops could not tell the store; the sweeper finds its claims."""

    error: Error
