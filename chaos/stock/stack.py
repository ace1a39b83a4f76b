"""The processes: a Valkey server and stock Celery workers in a folder of their own. What dies is started again."""

import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
import redis

from chaos.stock.app import Configuration
from chaos.stock.notes import is_running, ready_processes
from chaos.stock.verdict import Kill, Kind
from pipeline.contracts.stages import Stage
from pipeline.service.entry_points import clone_environment, command
from pipeline.stack import StackError
from pipeline.stack.programs import choose_ports
from pipeline.stack.store_server import server_command

COPIES = 2
START_S = 90.0
STOP_S = 10.0
LOOK_S = 0.05
BUSY_S, BUSY_LOOK_S = 2.0, 0.001
STORE_DOWN_S = 1.0
STORE = "store"


class StockStack:
    """``with StockStack(configuration) as stack`` starts everything, waits until it can work, and stops it."""

    def __init__(self, configuration: Configuration) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="scoreline-stock-")
        self.notes = Path(self._folder.name)
        port = choose_ports(api=None, flower=None, health=0).store
        self.url = f"redis://127.0.0.1:{port}/0"
        self._environment = {
            "STOCK_URL": self.url,
            "STOCK_OPTIONS": json.dumps(dict(configuration.options)),
            "STOCK_NOTES": str(self.notes),
        }
        self._commands = {STORE: server_command(port, self.notes, "process")} | {
            f"{stage}-{copy}": _worker_command(stage, copy) for stage in Stage for copy in range(1, COPIES + 1)
        }
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._stopping = threading.Event()
        self._supervisor = threading.Thread(target=self._supervise, name="supervisor", daemon=True)
        self._log = (self.notes / "log").open("wb")

    def __enter__(self) -> Self:
        try:
            self._start(STORE)
            self._await("the store does not answer", self.answers)
            for name in self._commands.keys() - {STORE}:
                self._start(name)
            count = len(self._commands) - 1
            self._await("the workers are not ready", lambda: len(ready_processes(self.notes)) >= count)
            self._supervisor.start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def answers(self) -> bool:
        """Whether the store answers."""
        with suppress(redis.RedisError):
            return bool(redis.Redis.from_url(self.url).ping())
        return False

    def kill(self, kind: Kind, choice: float, *, busy: bool) -> Kill:
        """Kill a pool's child, a worker with its children, or the store.

        ``choice`` (0 to 1) says which. ``busy``: in the middle of a task, if one comes within BUSY_S.
        """
        if kind == "store":
            self._processes[STORE].kill()
            return Kill(kind, time.monotonic())
        names = sorted(self._commands.keys() - {STORE})
        name = names[int(choice * len(names))]
        # After an earlier kill it may be about to start again.
        self._await(f"{name} has no child", lambda: bool(self._children(name)))
        children = self._children(name)
        until = time.monotonic() + BUSY_S
        while busy and not is_running(self.notes, children[0].pid) and time.monotonic() < until:
            time.sleep(BUSY_LOOK_S)
        victims = children[:1] if kind == "child" else children
        at = time.monotonic()
        if kind == "worker":
            os.killpg(self._processes[name].pid, signal.SIGKILL)
        else:
            victims[0].kill()
        return Kill(kind, at, frozenset(child.pid for child in victims))

    def _children(self, name: str) -> list[psutil.Process]:
        """The living ones: a dead child stays in the table of processes until its pool notices."""
        with suppress(psutil.NoSuchProcess):
            children = psutil.Process(self._processes[name].pid).children()
            return [child for child in children if child.status() != psutil.STATUS_ZOMBIE]
        return []

    def _start(self, name: str) -> None:
        self._processes[name] = subprocess.Popen(
            self._commands[name],
            env=clone_environment({**os.environ, **self._environment, "STOCK_STAGE": name.rsplit("-", 1)[0]}),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,  # Ctrl-C is ours to handle
        )

    def _await(self, failure: str, check: Callable[[], bool]) -> None:
        until = time.monotonic() + START_S
        while not check():
            if time.monotonic() > until:
                tail = (self.notes / "log").read_text(errors="replace")[-2000:]
                raise StackError(f"{failure}; the last lines of its log:\n{tail}")
            time.sleep(LOOK_S)

    def _supervise(self) -> None:
        died: dict[str, float] = {}
        while not self._stopping.wait(LOOK_S):
            for name, process in list(self._processes.items()):
                if process.poll() is None:
                    continue
                since = died.setdefault(name, time.monotonic())
                if time.monotonic() - since >= (STORE_DOWN_S if name == STORE else 0):
                    del died[name]
                    self._start(name)

    def _stop(self) -> None:
        self._stopping.set()
        if self._supervisor.ident is not None:
            self._supervisor.join()
        _end([process for name, process in self._processes.items() if name != STORE])
        _end([process for name, process in self._processes.items() if name == STORE])
        self._log.close()
        self._folder.cleanup()


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.terminate()
    until = time.monotonic() + STOP_S
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, until - time.monotonic()))
        with suppress(ProcessLookupError):  # a worker that did not leave by itself, or its children
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _worker_command(stage: Stage, copy: int) -> list[str]:
    start = command("celery", "-A", "chaos.stock.worker", "worker", "-P", "prefork", "-c", "1")
    return [*start, "-Q", stage, "-n", f"{stage}-{copy}@%h", "--without-mingle", "--without-gossip"]
