"""The tuned Celery worker: see ``bench.peers.tuned_celery``."""

import os
from typing import Any

from celery import Celery
from celery.signals import worker_process_init

from bench.peers.inside.work import Work

URL = os.environ["BENCH_PEER_URL"]
app = Celery("peers", broker=URL, backend=URL)
app.conf.update(
    task_serializer="msgpack",
    result_serializer="msgpack",
    accept_content=["msgpack"],
    worker_prefetch_multiplier=64,
    worker_disable_rate_limits=True,
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
    worker_proc_alive_timeout=60,
)
_work: list[Work] = []


@worker_process_init.connect
def _load(**_: object) -> None:
    _work.append(Work())


@app.task
def score(features: dict[str, Any]) -> dict[str, Any]:
    """One request, all three stages; acknowledged before it runs, as is Celery's default."""
    return _work[0].score([features])[0]


@app.task(acks_late=True, reject_on_worker_lost=True)
def score_late(features: dict[str, Any]) -> dict[str, Any]:
    """The same, acknowledged when it is done."""
    return _work[0].score([features])[0]


@app.task
def score_many(applications: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Many requests in one message."""
    return _work[0].score(applications)


WAYS = {"one a message": (score, 0), "one, late acks": (score_late, 0), "64 a message": (score_many, 64)}
