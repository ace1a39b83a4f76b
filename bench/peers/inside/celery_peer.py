"""What both Celery peers are made of: the app as its documentation advises, and the stages' code in each process."""

import os

from celery import Celery
from celery.signals import worker_process_init

from bench.peers.inside.work import Work

_work: list[Work] = []


def make_app(prefetch: int) -> Celery:
    """Returns the app. ``prefetch``: messages that a worker takes ahead, for each of its processes."""
    url = os.environ["BENCH_PEER_URL"]
    app = Celery("peers", broker=url, backend=url)
    app.conf.update(
        task_serializer="msgpack",
        result_serializer="msgpack",
        accept_content=["msgpack"],
        worker_prefetch_multiplier=prefetch,
        worker_disable_rate_limits=True,
        worker_hijack_root_logger=False,
        broker_connection_retry_on_startup=True,
        worker_proc_alive_timeout=60,
    )
    return app


def work() -> Work:
    """Returns the stages of this process."""
    return _work[0]


@worker_process_init.connect
def _load(**_: object) -> None:
    _work.append(Work())
