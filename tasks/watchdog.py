"""Ends a worker that would live on to no purpose: its supervisor starts another, and the sweeper has its work redone.

Two cases are known. A worker that is told to stop, or stops by itself after an error that Celery does not understand,
may wait for its child for ever. And a worker may be deaf: its heartbeat goes on, so no other takes its place, but it
receives no bell. With late acks and a prefetch of one, an ack that the store refuses is enough for that.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from typing import Any, Protocol

from celery.worker import state

from pipeline.ledger import keys
from pipeline.service.health import Pulse
from pipeline.service.periodic import Periodic
from pipeline.settings import LONGER, Settings
from pipeline.store.connection import Client
from pipeline.store.errors import StoreError
from pipeline.telemetry.events.workers import WorkerDeaf, WorkerDidNotStop
from pipeline.telemetry.process_output import emit_stacks

LOOK_S = 1.0
DEAF_S = 15.0
"""An idle worker receives a bell within milliseconds. Where bells wait so long, at each look, it receives none."""


def end_now(children: Callable[[], list[int]], end: Callable[[int], object] = os._exit) -> None:
    """Ends this process and its children, which hold its ports open as well."""
    for pid in children():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    end(1)


def last_resort(
    seconds: float, children: Callable[[], list[int]], end: Callable[[int], object] = os._exit
) -> threading.Timer:
    """Ends this process if it has not stopped by itself after ``seconds``."""

    def now() -> None:
        try:
            WorkerDidNotStop(seconds=seconds).emit()
        finally:
            end_now(children, end)

    timer = threading.Timer(seconds, now)
    timer.daemon = True
    timer.start()
    return timer


class Children(Protocol):
    """What the watchdog has to know of the worker's children."""

    def pids(self) -> list[int]:
        """Returns the children that are alive."""

    def starting(self) -> bool:
        """Returns whether a child is still starting: that has a limit of its own."""


class Watchdog(Periodic):
    """Checks once a second whether its worker is deaf, and ends it then.

    It has a thread of its own: the worker's event loop may be what has stopped.
    """

    def __init__(
        self,
        client: Client,
        queue: str,
        settings: Settings,
        pulse: Pulse,
        children: Children,
        end: Callable[[int], object] = os._exit,
    ) -> None:
        super().__init__("watchdog", LOOK_S)
        self._client = client
        self._queue = queue
        self._longest_bell_s = 2 * LONGER * settings.hard_limit_s + settings.bell_s  # two batches, in degraded mode
        self._pulse = pulse
        self._children = children
        self._end = end
        self._consumer: Any = None
        self._received = -1
        self._deaf_s = 0.0

    def listen(self, consumer: Any) -> None:
        """Notes that the worker should receive bells from now on."""
        self._consumer, self._deaf_s = consumer, 0.0

    def pause(self) -> None:
        """Notes that the worker stops or reconnects: it need not receive anything."""
        self._consumer = None

    def turn(self) -> None:
        """Checks once, and ends the worker if it is deaf."""
        if self.is_deaf():
            WorkerDeaf(queue=self._queue, seconds=self._deaf_s).emit()
            emit_stacks()
            end_now(self._children.pids, self._end)
            self.stop()

    def is_deaf(self) -> bool:
        """Checks once. It counts checks, not seconds: a process that was suspended has missed nothing."""
        received = state.all_total_count[0]
        if received != self._received or self._children.starting() or not self._bells_wait():
            self._received, self._deaf_s = received, 0.0
            return False
        self._deaf_s += LOOK_S
        busy = self._pulse.beating and len(state.reserved_requests) > 0
        return self._deaf_s > DEAF_S + (self._longest_bell_s if busy else 0.0)

    def _bells_wait(self) -> bool:
        consumer = self._consumer
        if consumer is None or not consumer.task_consumer.consuming_from(self._queue):
            return False
        try:
            return bool(self._client.llen(keys.TAG + self._queue))
        except StoreError:
            return False  # the store is away: no worker receives anything
