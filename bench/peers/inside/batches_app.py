"""The celery-batches worker: see ``bench.peers.batches``."""

import os
from typing import Any

from celery import Celery
from celery.signals import worker_process_init
from celery_batches import Batches

from bench.peers.inside.work import Work

URL = os.environ["BENCH_PEER_URL"]
app = Celery("peers", broker=URL, backend=URL)
app.conf.update(
    task_serializer="msgpack",
    result_serializer="msgpack",
    accept_content=["msgpack"],
    worker_prefetch_multiplier=128,
    worker_disable_rate_limits=True,
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
    worker_proc_alive_timeout=60,
)
_work: list[Work] = []


@worker_process_init.connect
def _load(**_: object) -> None:
    _work.append(Work())


@app.task(base=Batches, flush_every=64, flush_interval=0.01)
def score(requests: list[Any]) -> None:
    """A batch of requests, all three stages; each gets its own result."""
    results = _work[0].score([request.args[0] for request in requests])
    for request, result in zip(requests, results, strict=True):
        app.backend.mark_as_done(request.id, result, request=request)


WAYS = {"one a message": (score, 0)}
