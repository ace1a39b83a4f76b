"""The producer: sends chains at a rate, Poisson arrivals, and keeps what became of each send."""

import itertools
import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from celery import chain
from celery.exceptions import OperationalError
from celery.result import AsyncResult
from redis.exceptions import RedisError

from chaos.stock.app import make_app, task_name
from chaos.stock.notes import read_notes
from chaos.stock.verdict import Sent, ended
from pipeline.contracts.stages import Stage
from pipeline.samples.credit_data import read_applications

FAILURES = (OperationalError, RedisError, OSError)
"""What a send raises while the store is away."""
WARM, MEASURED = 60, 200
LOOK_S = 0.05


class Producer:
    """Sends to one application, from one thread. It keeps the ids of tasks, and waits for no result."""

    def __init__(self, url: str, options: Mapping[str, Any], work_s: float) -> None:
        # With a result backend, a producer subscribes to every result that it has not read; one that polls need not.
        self._app = make_app(url, options, backend=False)
        self._work_s = work_s
        self._rows = [row.features for row in read_applications()]
        self._numbers = itertools.count()
        self.sent: list[Sent] = []

    def run(self, rate: float, seconds: float, rng: random.Random) -> None:
        """Sends for ``seconds``. A send that blocks delays later ones, which are then sent without a pause."""
        due = time.monotonic()
        ends_at = due + seconds
        while due < ends_at:
            time.sleep(max(0.0, due - time.monotonic()))
            due += rng.expovariate(rate)
            number, at = next(self._numbers), time.monotonic()
            try:
                result = self.send(number)
            except FAILURES:
                self.sent.append(Sent(number, at, accepted=False))
            else:
                self.sent.append(Sent(number, at, accepted=True, tasks=_task_ids(result)))

    def send(self, number: int, work_s: float | None = None) -> AsyncResult:
        """Submits one request, unrecorded; returns its last task's result. ``work_s``: how long scoring takes."""
        body = self._rows[number % len(self._rows)] | {"Price": 100 + number / 1000}
        work = {"request": number, "body": body, "seconds": self._work_s if work_s is None else work_s}
        first, *others = (self._app.signature(task_name(stage)) for stage in Stage)
        return chain(first.clone(args=(work,)), *others, app=self._app).apply_async()

    def measure(self, notes: Path) -> float:
        """Measures the chain: requests per second, all submitted at once, without kills."""
        rate = 0.0
        for numbers in (range(-WARM, 0), range(-WARM - MEASURED, -WARM)):
            began = time.perf_counter()
            for number in numbers:
                self.send(number)
            while not ended(read_notes(notes)).keys() >= set(numbers):
                time.sleep(LOOK_S)
            rate = len(numbers) / (time.perf_counter() - began)
        return rate


def _task_ids(result: AsyncResult | None) -> tuple[str, ...]:
    ids = []
    while result is not None:
        ids.append(result.id)
        result = result.parent
    return tuple(ids)
