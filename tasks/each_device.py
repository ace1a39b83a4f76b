"""A machine with several GPUs: one scoring worker for each, so that a sick one takes no other with it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from pipeline.settings import Settings
from pipeline.telemetry.events.workers import WorkerDied
from pipeline.worker.devices.nvml import Found, NoDriver, find
from tasks.device_watch import EX_DRAIN

LOOK_S = 0.2
PAUSE_S = 5.0
"""Before a worker that has died is started again."""


def several(settings: Settings) -> list[Found]:
    """The GPUs, if there are several and nobody has chosen one."""
    if settings.device != "auto":
        return []
    try:
        found = find()
    except NoDriver:
        return []
    return found if len(found) > 1 else []


def one_for_each(devices: Sequence[Found], arguments: Sequence[str], health_port: int | None) -> int:
    """Run a worker for each device until told to stop, or all are drained; the exit code.

    Their health ports follow each other, from ``health_port``. One that dies is started again; one that is to be
    drained (75) is not.
    """
    commands = {}
    for place, device in enumerate(devices):
        command = [sys.executable, "-m", "tasks", *arguments]
        if health_port:
            command += ["--health-port", str(health_port + place)]
        commands[device.index] = command
    stopping = False

    def stop(*_: object) -> None:
        # No more than this: it may come while a worker is being started, which nobody could terminate yet.
        nonlocal stopping
        stopping = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    workers = {index: _start(index, command) for index, command in commands.items()}
    told: set[int] = set()
    drained: set[int] = set()
    again_at: dict[int, float] = {}
    while len(drained) < len(devices):
        time.sleep(LOOK_S)
        for index, worker in workers.items():
            if stopping and worker.pid not in told:
                told.add(worker.pid)
                worker.terminate()
            code = worker.poll()
            if code is None or index in drained:
                continue
            if code == EX_DRAIN:
                drained.add(index)
            elif not stopping and time.monotonic() >= again_at.setdefault(index, time.monotonic() + PAUSE_S):
                WorkerDied(device=index, code=code).emit()
                del again_at[index]
                workers[index] = _start(index, commands[index])
        if stopping and all(worker.poll() is not None for worker in workers.values()):
            return 0
    return EX_DRAIN


def _start(index: int, command: Sequence[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, env={**os.environ, "SCORELINE_DEVICE": f"cuda:{index}"})
