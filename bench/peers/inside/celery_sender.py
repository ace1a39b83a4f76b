"""The producer of both peers that are plain Celery: ``python -m bench.peers.inside.celery_sender MODULE``.

One thread and one connection for publishing; results come over Celery's own subscription and are handled by
``AsyncResult.then``. Threads that block in ``AsyncResult.get`` cost more CPU the more there are.
"""

import importlib
import itertools
import sys
import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from celery import Task
from celery.result import AsyncResult

from bench.peers.inside.inputs import applications
from bench.peers.inside.sender import Send, serve


class _Batch:
    """So many calls of a task, at most so many of them unfinished."""

    def __init__(self, task: Task, producer: Any, bodies: Iterator[Any]) -> None:
        self._task = task
        self._producer = producer
        self._bodies = bodies
        self._unfinished = 0
        self._latencies_ms: list[float] = []

    def run(self, parallel: int) -> tuple[float, list[float]]:
        """Sends all and reads all; returns seconds and latencies (ms)."""
        began = time.perf_counter()
        for _ in range(parallel):
            self._send()
        while self._unfinished:
            self._task.backend.result_consumer.drain_events(timeout=1)
        return time.perf_counter() - began, self._latencies_ms

    def _send(self) -> None:
        for body in itertools.islice(self._bodies, 1):
            self._unfinished += 1
            began = time.perf_counter()
            # Without `argsrepr` Celery writes out the arguments of each message a second time, for logs and monitors.
            result = self._task.apply_async((body,), producer=self._producer, argsrepr="")
            result.then(partial(self._done, began))

    def _done(self, began: float, result: AsyncResult) -> None:
        assert result.get(), "no result"
        self._latencies_ms.append((time.perf_counter() - began) * 1000)
        self._unfinished -= 1
        self._send()


def _start() -> Mapping[str, Send]:
    tasks = importlib.import_module(sys.argv[1])
    producer = tasks.app.producer_pool.acquire(block=True)
    rows = applications()

    def send(task: Task, size: int, count: int, parallel: int) -> tuple[float, list[float]]:
        """``size``: requests in a message; 0 for the request itself."""
        bodies = itertools.islice(rows, count)
        messages = (
            bodies if not size else iter([list(itertools.islice(bodies, size)) for _ in range(-(-count // size))])
        )
        return _Batch(task, producer, messages).run(parallel)

    return {way: partial(send, task, size) for way, (task, size) in tasks.WAYS.items()}


if __name__ == "__main__":
    serve(_start)
