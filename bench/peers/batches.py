"""celery-batches 0.11: a Celery worker that gathers messages and runs a task over a list of them.

Set up after https://celery-batches.readthedocs.io/en/latest/ : ``flush_every=64`` (the model's batch) with a prefetch
multiplier above it, each result written by ``mark_as_done``, as its example does. A worker that waits for 10 ms at most
(``flush_interval``) instead of whole seconds, since these results are waited for. All three stages run over the batch;
with ``scoring`` alone in batches, each of the other two would cost a message more. Everything else, the producer
included, is as in ``bench.peers.tuned_celery``. It does not admit Celery 5.7: this is 5.6.3, the newest that it admits.

What it does not do that Scoreline does: messages wait in the worker's memory, and are acknowledged before the batch
runs: a killed worker loses them. An exception ends the whole batch, logged and no more: its requests never get a
result, and a producer waits until its own timeout. Else as for Celery.
"""

from collections.abc import Mapping
from typing import ClassVar

from bench.peers.tuned_celery import TunedCelery


class CeleryBatches(TunedCelery):
    """The tuned worker, with batches."""

    name = "celery-batches"
    requirements: ClassVar[tuple[str, ...]] = (
        "celery-batches==0.11",
        "celery[redis]==5.6.3",
        "hiredis==3.5.0",
        "msgpack==1.2.4",
    )
    shown: ClassVar[tuple[str, ...]] = ("celery-batches", "celery", "kombu", "redis")
    streams: ClassVar[tuple[str, ...]] = ("one a message",)
    curves: ClassVar[Mapping[str, str]] = {"one a message": "celery-batches"}
    app = "bench.peers.inside.batches_app"
