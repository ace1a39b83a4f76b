"""The producer: sends chains at a rate, Poisson arrivals, and keeps what became of each send."""

import itertools
import random
import time

from celery import Celery, chain
from celery.exceptions import OperationalError
from celery.result import AsyncResult
from redis.exceptions import RedisError

from chaos.stock.app import task_name
from chaos.stock.verdict import Sent
from pipeline.contracts.stages import Stage
from pipeline.credit_data import read_applications

FAILURES = (OperationalError, RedisError, OSError, RuntimeError)
"""What a send raises while the store is away. RuntimeError: the result backend's client has given up."""
WARM, MEASURED = 60, 200


class Producer:
    """Sends to one application, from one thread."""

    def __init__(self, app: Celery, work_s: float) -> None:
        self._app = app
        self._work_s = work_s
        self._rows = [row.features for row in read_applications()]
        self._numbers = itertools.count()
        self.sent: list[Sent] = []

    def run(self, rate: float, seconds: float, rng: random.Random) -> None:
        """Send for ``seconds``. A send that blocks delays those behind it; they are then sent without a pause."""
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
        """Hand in one request, unrecorded: the result of its last task. ``work_s``: how long scoring takes."""
        body = self._rows[number % len(self._rows)] | {"Price": 100 + number / 1000}
        work = {"request": number, "body": body, "seconds": self._work_s if work_s is None else work_s}
        first, *others = (self._app.signature(task_name(stage)) for stage in Stage)
        return chain(first.clone(args=(work,)), *others, app=self._app).apply_async()

    def measure(self) -> float:
        """Requests per second that the chain does, all handed in at once; without any kills."""
        rate = 0.0
        for count in (WARM, MEASURED):
            began = time.perf_counter()
            for result in [self.send(-number) for number in range(1, count + 1)]:
                result.get(timeout=120)
            rate = count / (time.perf_counter() - began)
        return rate


def _task_ids(result: AsyncResult | None) -> tuple[str, ...]:
    ids = []
    while result is not None:
        ids.append(result.id)
        result = result.parent
    return tuple(ids)
