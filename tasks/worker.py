"""A worker service: one stage's Celery worker with its heartbeat, its watch over children, and its health port."""

import contextlib
import faulthandler
import os
import signal
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NoReturn

import psutil
from billiard.pool import EX_RECYCLE
from celery import Celery, bootsteps
from celery.signals import worker_process_init
from celery.worker import state

from pipeline.contracts.stages import Stage
from pipeline.ledger.recovery import claimed_batch, release_claims
from pipeline.ledger.rights import demand, speaks_against
from pipeline.ledger.scripts import Scripts
from pipeline.service.health import STUCK_S, HealthServer, Pulse, Recent
from pipeline.service.periodic import Duty, Periodic
from pipeline.settings import LONGER, Settings
from pipeline.store.connection import Client, connect
from pipeline.store.errors import StoreError
from pipeline.telemetry.events.devices import DeviceSick
from pipeline.telemetry.events.requests import TOLD, ClaimsReleased
from pipeline.telemetry.events.services import HealthServed
from pipeline.telemetry.events.workers import (
    BatchInterrupted,
    BatchKilled,
    ChildDied,
    ChildMemoryHigh,
    ChildNotReady,
    ChildNotStarted,
    ChildReplaced,
)
from pipeline.telemetry.process_output import log_everything
from pipeline.worker.devices.health import State, Verdict
from pipeline.worker.devices.nvml import Found
from pipeline.worker.incarnation import Heartbeat, Incarnation
from tasks import child
from tasks.broker import check_acks
from tasks.device_watch import EX_DRAIN, DeviceWatch, chosen
from tasks.standby import Standby
from tasks.watchdog import Watchdog, last_resort

WATCH_S = 0.2
STDERR = 2
STOP_S = 5.0
"""How long a worker that stops may take beyond what it is working on."""


class Memory:
    """Warns of children that come near their cap of memory. Celery's pool replaces those beyond it, between bells."""

    SOON = 0.8

    def __init__(self, cap_mb: int) -> None:
        """``cap_mb``: 0 if there is none."""
        self.cap_mb = cap_mb
        self._warned: set[int] = set()

    def look(self, pids: Iterable[int]) -> None:
        """Warn of those that are near it, once each."""
        if not self.cap_mb:
            return
        for pid in set(pids) - self._warned:
            with contextlib.suppress(psutil.NoSuchProcess):
                used_mb = psutil.Process(pid).memory_info().rss >> 20
                if used_mb > self.SOON * self.cap_mb:
                    self._warned.add(pid)
                    ChildMemoryHigh(pid=pid, used_mb=used_mb, cap_mb=self.cap_mb).emit()

    def forget(self, pid: int) -> None:
        """It is gone, and its number may be given again."""
        self._warned.discard(pid)


class Children:
    """Watches the pool's children: the claims of one that died are released at once, with the attempt charged."""

    def __init__(
        self,
        incarnation: Incarnation,
        queue: str,
        client: Client,
        settings: Settings,
        died: Callable[[], None] = lambda: None,
    ) -> None:
        """``died`` hears of each death."""
        self._died = died
        self._incarnation = incarnation
        self._queue = queue
        self._client = client
        self._scripts = Scripts(client)
        self._settings = settings
        self._start_limit_s = settings.start_limit_s
        self._memory = Memory(settings.child_memory_mb)
        self._known: dict[int, Any] = {}
        self._met: dict[int, float] = {}
        self._unreleased: dict[int, tuple[str, str]] = {}
        self.interrupted = 0
        """Batches that were told that they take too long."""
        self._ended_by_us: dict[int, str] = {}

    def pids(self) -> list[int]:
        """The children that lived when they were last looked at."""
        return list(self._known)

    def starting(self) -> bool:
        """Whether one of them has not registered yet: it loads its stage."""
        return any(pid not in self._registered() for pid in self._known)

    def _registered(self) -> set[int]:
        return {slot.pid for slot in self._incarnation.children if slot.registered}

    def meet(self, pool: Any) -> None:
        """Know the children that are there: one may die before the first look."""
        self._known |= {process.pid: process for process in pool._pool}

    def _end_slow_starters(self) -> None:
        """A child of a process with threads may inherit a lock that nobody will ever release."""
        now = time.monotonic()
        self._met = {pid: self._met.get(pid, now) for pid in self._known}
        for pid, since in self._met.items():
            if pid not in self._registered() and now - since > self._start_limit_s:
                ChildNotReady(pid=pid, seconds=round(now - since, 1)).emit()
                self._signal(pid, signal.SIGKILL)

    def _keep_limits(self) -> None:
        """A batch that takes too long is told so; if that does not help, it is ended with its process."""
        times = LONGER if self._incarnation.degraded else 1
        for slot in self._incarnation.children:
            pid, seconds = slot.pid, slot.running_s
            if pid not in self._known:
                continue
            if seconds > times * self._settings.hard_limit_s:
                BatchKilled(pid=pid, seconds=round(seconds, 1)).emit()
                self._ended_by_us[pid] = f"ran longer than the hard limit of {times * self._settings.hard_limit_s:g} s"
                self._signal(pid, signal.SIGKILL)
            elif seconds > times * self._settings.soft_limit_s and not slot.overran:
                BatchInterrupted(pid=pid, seconds=round(seconds, 1)).emit()
                # First this: the signal may find the child between two calls of its stage's code.
                slot.tell_too_long()
                self.interrupted += 1
                self._signal(pid, signal.SIGUSR1)

    @staticmethod
    def _signal(pid: int, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    def watch(self, pool: Any) -> None:
        """Look once. Without it Celery's pool takes up to five seconds to notice a death."""
        pool.maintain_pool()
        living = {process.pid: process for process in pool._pool}
        # The pool looks by itself as well: a child may have come and gone in between, and only have taken its slot.
        for pid in {*(slot.pid for slot in self._incarnation.children), *self._known} - living.keys():
            self._memory.forget(pid)
            process = self._known.get(pid)
            if getattr(process, "exitcode", None) == EX_RECYCLE:
                ChildReplaced(pid=pid, reason=f"it has used more than {self._memory.cap_mb} MB").emit()
            else:
                ChildDied(pid=pid, signal=self._cause(process)).emit()
                self._died()
            slot = self._incarnation.children.of(pid)
            self._unreleased[pid] = self._cause(process), slot.running if slot is not None else ""
            self._incarnation.children.forget(pid)
        self._known = living
        self._end_slow_starters()
        self._keep_limits()
        self._memory.look(living)
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

    @staticmethod
    def _cause(process: Any) -> str:
        code = process and process.exitcode
        return signal.Signals(-code).name if code is not None and code < 0 else ""


def _drain(verdict: Verdict, found: Found | None, children: Children, heartbeat: Heartbeat, queue: str) -> NoReturn:
    """End this worker, whose device is sick, with nothing lost."""
    try:
        DeviceSick(device=found.name if found else "cpu", reasons=verdict.reasons).emit()
        for pid in children.pids():  # what it computes is not to be trusted
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        heartbeat.sign_off(queue)  # gives back what is held, uncharged
    finally:
        os._exit(EX_DRAIN)


def _make_step(
    children: Children, watchdog: Watchdog, pulse: Pulse, standby: Standby | None, settings: Settings
) -> tuple[type, list[Duty]]:
    """What runs with the consumer's event loop, and what it does there again and again."""
    watches, hears = Duty("the watch over its children"), Duty("standing by")

    class Watch(bootsteps.StartStopStep):
        """Runs with the consumer's event loop: starts again after each reconnection."""

        requires = ("celery.worker.consumer.tasks:Tasks",)

        def start(self, consumer: Any) -> None:
            pulse.turn()
            watchdog.listen(consumer)
            children.meet(consumer.pool._pool)
            consumer.hub.call_repeatedly(1.0, pulse.turn)
            consumer.hub.call_repeatedly(WATCH_S, check_acks, consumer)
            consumer.hub.call_repeatedly(WATCH_S, watches.do, partial(children.watch, consumer.pool._pool))
            if standby is not None:
                standby.begin(consumer)
                consumer.hub.call_repeatedly(WATCH_S, hears.do, partial(standby.hear, consumer))

        def stop(self, consumer: Any) -> None:
            pulse.pause()
            watchdog.pause()
            if consumer.blueprint.state != bootsteps.RUN:  # for good, not to connect again
                told = state.should_stop is not None or state.should_terminate is not None
                limit_s = settings.bell_s + STOP_S + (settings.hard_limit_s if told else 0)
                last_resort(limit_s, children.pids)

    return Watch, [watches, hears]


def _health(
    port: int,
    incarnation: Incarnation,
    pulse: Pulse,
    device_watch: DeviceWatch,
    settings: Settings,
    *,
    needed: Sequence[Duty | Periodic],
    useful: Sequence[Duty | Periodic],
) -> HealthServer:
    """``needed``: a worker in which one of these fails for long is no use, and a new one may be; ``useful``: others."""
    asking = connect(settings)
    refused = Recent(lambda: speaks_against(asking, settings, "worker"))

    def first(what: Sequence[Duty | Periodic], for_s: float = 0.0) -> str:
        return next((fault for each in what if (fault := each.fault(for_s))), "")

    def stuck() -> str:
        return first(needed, STUCK_S) if pulse.beating else "its loop does not turn"

    def not_ready() -> str:
        loads = "" if incarnation.ready else "it loads its stage"
        return stuck() or loads or device_watch.full or first([*needed, *useful]) or refused()

    return HealthServer(port, live=stuck, ready=not_ready)


def _start_child(stage: Stage, incarnation: Incarnation, settings: Settings, pool: str, **_: object) -> None:
    """What a new child of the pool does first."""
    faulthandler.dump_traceback_later(0.9 * settings.start_limit_s, file=STDERR)
    try:
        child.start(stage, incarnation, settings, pool)
    except BaseException as error:  # noqa: BLE001 - the process ends
        # Celery would go on with a child that fails every bell. Its supervisor starts us again, with backoff.
        ChildNotStarted(stage=str(stage)).emit(error)
        os.kill(os.getppid(), signal.SIGTERM)
        os._exit(1)
    faulthandler.cancel_dump_traceback_later()


def _celery_arguments(queue: str, settings: Settings) -> list[str]:
    return [
        "--quiet",  # no banner
        "worker",
        f"--hostname={queue}-{os.getpid()}@{socket.gethostname()}",
        f"--queues={queue}",
        "--pool=prefork",
        "--concurrency=1",
        f"--max-memory-per-child={settings.child_memory_mb << 10}",  # KiB; 0: no limit
        "--without-mingle",
        "--without-gossip",
        "--task-events",
        "--loglevel=INFO",
    ]


def run_worker(
    app: Celery, stage: Stage, settings: Settings, *, health_port: int | None, pool: str = "", stands_by: bool = False
) -> None:
    """Run one stage's worker until it is told to stop; TERM lets the batch under way finish.

    ``pool``: of models; ``stands_by``: see ``tasks.standby``. Both are for scoring only.
    """
    output = log_everything(f"worker-{stage}")
    demand(settings, "worker")
    with contextlib.suppress(Exception):  # the child fails on it too, says so, and ends us
        child.preload(stage)
    queue = f"{stage}.{pool}" if pool else str(stage)
    found = chosen(settings) if stage is Stage.SCORING else None
    incarnation = Incarnation(stage, queue, f"cuda:{found.index}" if found else "cpu")
    if found is not None:
        # The child sees this one alone, under the first number.
        os.environ["CUDA_VISIBLE_DEVICES"], incarnation.child_device = found.uuid, "cuda:0"
    pulse = Pulse()

    start_child = partial(_start_child, stage, incarnation, settings, pool)
    worker_process_init.connect(start_child, weak=False, dispatch_uid="scoreline-child")
    heartbeat = Heartbeat(incarnation, connect(settings), settings)

    def drain(verdict: Verdict) -> None:
        _drain(verdict, found, children, heartbeat, queue)

    device_watch = DeviceWatch(incarnation, found, drain)
    children = Children(incarnation, queue, connect(settings), settings, device_watch.child_died)
    verdict = device_watch.look()
    if verdict.state is State.SICK:
        drain(verdict)
    device_watch.start()
    watchdog = Watchdog(connect(settings), queue, settings, pulse, children)
    watchdog.start()
    standby = Standby(incarnation, queue, connect(settings), settings) if stands_by else None
    if standby is not None:
        standby.start()
    step, duties = _make_step(children, watchdog, pulse, standby, settings)
    app.steps["consumer"].add(step)
    heartbeat.start()

    needed: Sequence[Duty | Periodic] = [heartbeat, watchdog, *duties]
    useful = [device_watch, *([] if standby is None else [standby])]
    health = None
    if health_port is not None:
        health = _health(health_port, incarnation, pulse, device_watch, settings, needed=needed, useful=useful)
        HealthServed(url=f"http://127.0.0.1:{health.port}/livez").emit()
    try:
        app.worker_main(_celery_arguments(queue, settings))
    finally:
        watchdog.stop()
        if standby is not None:
            standby.stop()
        device_watch.stop()
        heartbeat.sign_off(queue)
        if health is not None:
            health.stop()
        output.close()
