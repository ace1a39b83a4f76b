"""The watch over the pool's children: their limits of time and memory, and what a child that dies leaves behind."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable
from typing import Any

import psutil
from billiard.pool import EX_RECYCLE

from pipeline.ledger.recovery import claimed_batch, release_claims
from pipeline.ledger.scripts import Scripts
from pipeline.settings import LONGER, Settings
from pipeline.store.connection import Client
from pipeline.store.errors import StoreError
from pipeline.telemetry.events.requests import TOLD, ClaimsReleased
from pipeline.telemetry.events.workers import (
    BatchInterrupted,
    BatchKilled,
    ChildDied,
    ChildMemoryHigh,
    ChildNotReady,
    ChildReplaced,
)
from pipeline.worker.incarnation import Incarnation


def send_signal(pid: int, number: signal.Signals) -> None:
    """Sends a child a signal, unless it has just ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


class Memory:
    """Warns of children that come near their memory limit. Celery's pool replaces those beyond it, between bells."""

    SOON = 0.8

    def __init__(self, cap_mb: int) -> None:
        """``cap_mb``: the limit in MiB of resident memory; 0 if there is none."""
        self.cap_mb = cap_mb
        self._warned: set[int] = set()

    def look(self, pids: Iterable[int]) -> None:
        """Warns once of each child that is near the limit."""
        if not self.cap_mb:
            return
        for pid in set(pids) - self._warned:
            with contextlib.suppress(psutil.NoSuchProcess):
                used_mb = psutil.Process(pid).memory_info().rss >> 20
                if used_mb > self.SOON * self.cap_mb:
                    self._warned.add(pid)
                    ChildMemoryHigh(pid=pid, used_mb=used_mb, cap_mb=self.cap_mb).emit()

    def forget(self, pid: int) -> None:
        """Forgets a child that is gone: its process id may be used again."""
        self._warned.discard(pid)


class Children:
    """Watches the pool's children, five times a second.

    A batch beyond its soft limit is interrupted, one beyond its hard limit is killed with its child. The claims of a
    child that died are released at once, with the attempt charged.
    """

    def __init__(
        self,
        incarnation: Incarnation,
        queue: str,
        client: Client,
        settings: Settings,
        report_death: Callable[[], None] = lambda: None,
    ) -> None:
        """``report_death`` is called at each death that Celery's pool has not brought about."""
        self._report_death = report_death
        self._incarnation = incarnation
        self._queue = queue
        self._client = client
        self._scripts = Scripts(client)
        self._settings = settings
        self._start_limit_s = settings.start_limit_s
        self._memory = Memory(settings.child_memory_mb)
        self._known: dict[int, Any] = {}
        self._first_seen: dict[int, float] = {}
        self._unreleased: dict[int, tuple[str, str]] = {}
        self.interrupted = 0
        """How many batches were interrupted because they took too long."""
        self._ended_by_us: dict[int, str] = {}

    def pids(self) -> list[int]:
        """The children that were alive at the last look."""
        return list(self._known)

    def starting(self) -> bool:
        """Whether a child has not registered yet: it is loading its stage."""
        return any(pid not in self._registered() for pid in self._known)

    def _registered(self) -> set[int]:
        return {slot.pid for slot in self._incarnation.children if slot.registered}

    def meet(self, pool: Any) -> None:
        """Notes the children that are there now: one may die before the first look."""
        self._known |= {process.pid: process for process in pool._pool}

    def watch(self, pool: Any) -> None:
        """Looks once. Without it Celery's pool takes up to five seconds to notice a death."""
        pool.maintain_pool()
        alive = {process.pid: process for process in pool._pool}
        # The pool looks by itself as well: a child may have come and gone in between, and only have taken its slot.
        for pid in {*(slot.pid for slot in self._incarnation.children), *self._known} - alive.keys():
            self._note_death(pid, self._known.get(pid))
        self._known = alive
        self._kill_slow_starters()
        self._keep_time_limits()
        self._memory.look(alive)
        self._release_claims_of_the_dead()

    def _note_death(self, pid: int, process: Any) -> None:
        """Logs the end of a child, and notes what has to be released."""
        self._memory.forget(pid)
        cause = _signal_of(process)
        if getattr(process, "exitcode", None) == EX_RECYCLE:
            ChildReplaced(pid=pid, reason=f"it has used more than {self._memory.cap_mb} MB").emit()
        else:
            ChildDied(pid=pid, signal=cause).emit()
            self._report_death()
        slot = self._incarnation.children.of(pid)
        self._unreleased[pid] = cause, slot.running if slot is not None else ""
        self._incarnation.children.forget(pid)

    def _kill_slow_starters(self) -> None:
        """Kills children that do not come up: one forked while a thread held a lock may wait for it for ever."""
        now = time.monotonic()
        self._first_seen = {pid: self._first_seen.get(pid, now) for pid in self._known}
        for pid, since in self._first_seen.items():
            if pid not in self._registered() and now - since > self._start_limit_s:
                ChildNotReady(pid=pid, seconds=round(now - since, 1)).emit()
                send_signal(pid, signal.SIGKILL)

    def _keep_time_limits(self) -> None:
        """Interrupts a batch at its soft limit, and kills its process at the hard one."""
        times = LONGER if self._incarnation.degraded else 1
        for slot in self._incarnation.children:
            pid, seconds = slot.pid, slot.running_s
            if pid not in self._known:
                continue
            if seconds > times * self._settings.hard_limit_s:
                BatchKilled(pid=pid, seconds=round(seconds, 1)).emit()
                self._ended_by_us[pid] = f"ran longer than the hard limit of {times * self._settings.hard_limit_s:g} s"
                send_signal(pid, signal.SIGKILL)
            elif seconds > times * self._settings.soft_limit_s and not slot.overran():
                BatchInterrupted(pid=pid, seconds=round(seconds, 1)).emit()
                # First this: the signal may find the child between two calls of its stage's code.
                slot.tell_too_long()
                self.interrupted += 1
                send_signal(pid, signal.SIGUSR1)

    def _release_claims_of_the_dead(self) -> None:
        for pid, (cause, running) in list(self._unreleased.items()):
            reason = f"the process died under it ({cause})" if cause else "the process exited under it"
            too_long = self._ended_by_us.get(pid)
            try:
                lane, ids = claimed_batch(self._client, self._incarnation.name, running)
                released = release_claims(
                    self._scripts,
                    self._incarnation.name,
                    charge="start",
                    pid=pid,
                    reason=too_long or reason,
                    signal="" if too_long else cause,
                    category="hang" if too_long else "crash",
                    running=running or "none",
                    queue=self._queue,
                )
            except StoreError:
                return  # the store is away: the next look tries again
            del self._unreleased[pid]
            self._ended_by_us.pop(pid, None)
            if released:
                ClaimsReleased(pid=pid, requests=released, lane=lane, request_ids=ids[:TOLD]).emit()


def _signal_of(process: Any) -> str:
    """The name of the signal that ended a process; empty if it exited, or was never known."""
    code = process and process.exitcode
    return signal.Signals(-code).name if code is not None and code < 0 else ""
