"""A worker service: one stage's Celery worker with its heartbeat, its watch over its children, and its health port."""

import contextlib
import faulthandler
import os
import signal
import socket
from collections.abc import Sequence
from functools import partial
from typing import Any, NoReturn

from celery import Celery, bootsteps
from celery.signals import worker_process_init
from celery.worker import state

from pipeline.contracts.stages import Stage
from pipeline.ledger.rights import demand, speaks_against
from pipeline.service.health import STUCK_S, HealthServer, Pulse, Recent
from pipeline.service.periodic import Duty, Periodic
from pipeline.settings import Settings
from pipeline.store.connection import connect
from pipeline.telemetry.events.devices import DeviceSick
from pipeline.telemetry.events.services import HealthServed
from pipeline.telemetry.events.workers import ChildNotStarted
from pipeline.telemetry.process_output import log_everything
from pipeline.worker.devices.health import State, Verdict
from pipeline.worker.devices.nvml import Found
from pipeline.worker.devices.watch import EX_DRAIN, DeviceWatch, chosen
from pipeline.worker.heartbeat import Heartbeat
from pipeline.worker.incarnation import Incarnation
from tasks import child
from tasks.broker import check_acks
from tasks.children import Children, send_signal
from tasks.stages import preload
from tasks.standby import Standby
from tasks.watchdog import Watchdog, last_resort

WATCH_S = 0.2
STDERR = 2
STOP_S = 5.0
"""How long a worker that stops may take after what it is working on is done."""


def _drain(verdict: Verdict, found: Found | None, children: Children, heartbeat: Heartbeat, queue: str) -> NoReturn:
    """Ends this worker, whose device is sick, with nothing lost."""
    try:
        DeviceSick(device=found.name if found else "cpu", reasons=verdict.reasons).emit()
        for pid in children.pids():  # what it computes is not to be trusted
            send_signal(pid, signal.SIGKILL)
        heartbeat.sign_off(queue)  # gives back what is held, uncharged
    finally:
        os._exit(EX_DRAIN)


def _make_step(
    children: Children, watchdog: Watchdog, pulse: Pulse, standby: Standby | None, settings: Settings
) -> tuple[type, list[Duty]]:
    """Makes the step that runs with the consumer's event loop, and the duties that it does there."""
    watch_children, stand_by = Duty("the watch over its children"), Duty("standing by")

    class Watch(bootsteps.StartStopStep):
        """Runs with the consumer's event loop; it is started again after each reconnection."""

        requires = ("celery.worker.consumer.tasks:Tasks",)

        def start(self, consumer: Any) -> None:
            pulse.turn()
            watchdog.listen(consumer)
            children.meet(consumer.pool._pool)
            consumer.hub.call_repeatedly(1.0, pulse.turn)
            consumer.hub.call_repeatedly(WATCH_S, check_acks, consumer)
            consumer.hub.call_repeatedly(WATCH_S, watch_children.do, partial(children.watch, consumer.pool._pool))
            if standby is not None:
                standby.begin(consumer)
                consumer.hub.call_repeatedly(WATCH_S, stand_by.do, partial(standby.consume_if_needed, consumer))

        def stop(self, consumer: Any) -> None:
            pulse.pause()
            watchdog.pause()
            if consumer.blueprint.state != bootsteps.RUN:  # it stops for good, not to reconnect
                was_told = state.should_stop is not None or state.should_terminate is not None
                limit_s = settings.bell_s + STOP_S + (settings.hard_limit_s if was_told else 0)
                last_resort(limit_s, children.pids)

    return Watch, [watch_children, stand_by]


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
    """Serves the worker's health.

    A worker in which a ``needed`` duty fails for long is not live: a new one may do better. One in which a ``useful``
    duty fails is only not ready.
    """
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


def _start_child(
    stage: Stage, incarnation: Incarnation, settings: Settings, device: str, pool: str, **_: object
) -> None:
    """Starts the stage in a new child of the pool."""
    faulthandler.dump_traceback_later(0.9 * settings.start_limit_s, file=STDERR)
    try:
        child.start(stage, incarnation, settings, device, pool)
    except BaseException as error:  # noqa: BLE001 - the process ends
        # Celery would go on with a child that fails every bell. The supervisor starts this worker again, with backoff.
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


def _on_device(stage: Stage, queue: str, settings: Settings) -> tuple[Incarnation, Found | None]:
    """Makes this worker's incarnation, and returns the GPU that it runs on (None: the CPU); children see no other."""
    found = chosen(settings) if stage is Stage.SCORING else None
    if found is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = found.uuid
    return Incarnation(stage, queue, f"cuda:{found.index}" if found else "cpu"), found


def run_worker(
    app: Celery, stage: Stage, settings: Settings, *, health_port: int | None, pool: str = "", stands_by: bool = False
) -> None:
    """Runs one stage's worker until it is told to stop; at SIGTERM it finishes the running batch first.

    ``health_port``: None for no health port, 0 for a free one. ``pool``: of models; ``stands_by``: see
    ``tasks.standby``. Both are for scoring only.
    """
    output = log_everything(f"worker-{stage}")
    demand(settings, "worker")
    with contextlib.suppress(Exception):  # the child fails on it too, reports it, and ends this worker
        preload(stage)
    queue = f"{stage}.{pool}" if pool else str(stage)
    incarnation, found = _on_device(stage, queue, settings)
    pulse = Pulse()
    device = "cuda:0" if found else "cpu"  # as the child sees it: the only one
    start_child = partial(_start_child, stage, incarnation, settings, device, pool)
    worker_process_init.connect(start_child, weak=False, dispatch_uid="scoreline-child")
    heartbeat = Heartbeat(incarnation, connect(settings), settings)

    def drain(verdict: Verdict) -> None:
        _drain(verdict, found, children, heartbeat, queue)

    device_watch = DeviceWatch(incarnation, found, drain)
    children = Children(incarnation, queue, connect(settings), settings, device_watch.child_died)
    verdict = device_watch.look()
    if verdict.state is State.SICK:
        drain(verdict)
    watchdog = Watchdog(connect(settings), queue, settings, pulse, children)
    standby = Standby(incarnation, queue, connect(settings), settings) if stands_by else None
    step, duties = _make_step(children, watchdog, pulse, standby, settings)
    app.steps["consumer"].add(step)
    watches: list[Periodic] = [device_watch, watchdog, *([] if standby is None else [standby])]
    for thread in (*watches, heartbeat):
        thread.start()

    needed: Sequence[Duty | Periodic] = [heartbeat, watchdog, *duties]
    useful = [watch for watch in watches if watch is not watchdog]
    health = None
    if health_port is not None:
        health = _health(health_port, incarnation, pulse, device_watch, settings, needed=needed, useful=useful)
        HealthServed(url=f"http://127.0.0.1:{health.port}/livez").emit()
    try:
        app.worker_main(_celery_arguments(queue, settings))
    finally:
        for watch in watches:
            watch.stop()
        heartbeat.sign_off(queue)
        if health is not None:
            health.stop()
        output.close()
