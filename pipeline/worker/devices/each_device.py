"""A machine with several GPUs: one scoring worker for each, so that a sick one takes no other with it."""

import os
import subprocess
import time
from collections.abc import Sequence

from pipeline.service.entry_points import EntryPoint, command
from pipeline.service.signals import StopRequest, on_stop_signal
from pipeline.settings import Settings
from pipeline.telemetry.events.workers import WorkerDied
from pipeline.worker.devices.nvml import Found, NoDriver, find
from pipeline.worker.devices.watch import EX_DRAIN

LOOK_S = 0.2
PAUSE_S = 5.0
"""How long a worker that has died waits before it is started again."""


def several(settings: Settings) -> list[Found]:
    """Returns this machine's GPUs if it has several and the settings choose none of them; otherwise nothing."""
    if settings.device != "auto":
        return []
    try:
        found = find()
    except NoDriver:
        return []
    return found if len(found) > 1 else []


def one_for_each(devices: Sequence[Found], arguments: Sequence[str], health_port: int | None) -> int:
    """Runs a worker for each device until it is told to stop or all are drained; returns the exit code.

    Their health ports follow each other, from ``health_port`` on. A worker that dies is started again; one that exits
    with 75 (drain this node) is not.
    """
    commands = {}
    for place, device in enumerate(devices):
        own_port = ["--health-port", str(health_port + place)] if health_port else []
        commands[device.index] = command(EntryPoint.WORKER, *arguments, *own_port)
    # The signal is only noted: it may come while a worker is being started, which cannot be terminated yet.
    stop = StopRequest()
    on_stop_signal(stop.make)
    workers = {index: _start(index, start) for index, start in commands.items()}
    terminated: set[int] = set()
    drained: set[int] = set()
    restart_at: dict[int, float] = {}
    while len(drained) < len(devices):
        time.sleep(LOOK_S)
        for index, worker in workers.items():
            if stop.made and worker.pid not in terminated:
                terminated.add(worker.pid)
                worker.terminate()
            code = worker.poll()
            if code is None or index in drained:
                continue
            if code == EX_DRAIN:
                drained.add(index)
            elif not stop.made and time.monotonic() >= restart_at.setdefault(index, time.monotonic() + PAUSE_S):
                WorkerDied(device=index, code=code).emit()
                del restart_at[index]
                workers[index] = _start(index, commands[index])
        if stop.made and all(worker.poll() is not None for worker in workers.values()):
            return 0
    return EX_DRAIN


def _start(index: int, start: Sequence[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(start, env={**os.environ, "SCORELINE_DEVICE": f"cuda:{index}"})
