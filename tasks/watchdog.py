"""Ends a worker that would live on to no purpose: its supervisor starts another, and the sweeper has its work redone.

Two are known. One that is told to stop, or stops by itself after an error that Celery does not understand, may wait for
its child for ever. And one may be deaf: it runs and beats, so that nobody takes its place, but hears no bell. With late
acks and a prefetch of one, an ack that the store refuses is enough for that.
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
"""An idle worker hears a bell within milliseconds. Bells that wait so long, at each look, wait in vain."""


def end_now(children: Callable[[], list[int]], end: Callable[[int], object] = os._exit) -> None:
    """End this process and its children, which have its ports open as well."""
    for pid in children():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    end(1)


def last_resort(
    seconds: float, children: Callable[[], list[int]], end: Callable[[int], object] = os._exit
) -> threading.Timer:
    """End this process if stopping it has not done so by then."""

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
    """What it has to know of the worker's children."""

    def pids(self) -> list[int]:
        """Those that live."""

    def starting(self) -> bool:
        """Whether one of them is still starting: that has a limit of its own."""


class Watchdog(Periodic):
    """Looks once a second whether its worker is deaf, and ends it then.

    A thread of its own: the worker's event loop may be what has stopped.
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
        self._longest_job_s = 2 * LONGER * settings.hard_limit_s + settings.bell_s  # two batches, in degraded mode
        self._pulse = pulse
        self._children = children
        self._end = end
        self._consumer: Any = None
        self._heard = -1
        self._in_vain_s = 0.0

    def listen(self, consumer: Any) -> None:
        """From now on its worker should hear bells."""
        self._consumer, self._in_vain_s = consumer, 0.0

    def pause(self) -> None:
        """Its worker stops, or connects again: nobody expects it to hear anything."""
        self._consumer = None

    def turn(self) -> None:
        """Look once."""
        if self.is_deaf():
            WorkerDeaf(queue=self._queue, seconds=self._in_vain_s).emit()
            emit_stacks()
            end_now(self._children.pids, self._end)
            self.stop()

    def is_deaf(self) -> bool:
        """Look once. Looks are counted, not seconds: a process that was suspended has missed nothing."""
        heard = state.all_total_count[0]
        if heard != self._heard or self._children.starting() or not self._bells_wait():
            self._heard, self._in_vain_s = heard, 0.0
            return False
        self._in_vain_s += LOOK_S
        busy = self._pulse.beating and len(state.reserved_requests) > 0
        return self._in_vain_s > DEAF_S + (self._longest_job_s if busy else 0.0)

    def _bells_wait(self) -> bool:
        consumer = self._consumer
        if consumer is None or not consumer.task_consumer.consuming_from(self._queue):
            return False
        try:
            return bool(self._client.llen(keys.TAG + self._queue))
        except StoreError:
            return False  # nobody hears anything
