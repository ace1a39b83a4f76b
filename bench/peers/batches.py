"""celery-batches 0.11: a Celery worker that gathers messages and runs a task over a list of them.

Set up after https://celery-batches.readthedocs.io/en/latest/ : ``flush_every=64`` (the model's batch) with a prefetch
multiplier above it, and each result written by ``mark_as_done``, as in its example. It waits for 10 ms at most
(``flush_interval``), not for seconds, since these results are waited for. All three stages run over the batch; with
scoring alone in batches, each of the other two would cost a message more. Everything else, the producer included, is
as in ``bench.peers.tuned_celery``. It does not admit Celery 5.7: this is 5.6.3, the newest that it admits.

What it does not do that Scoreline does: a batch is acknowledged when it starts, so a killed process loses up to 64
requests; what waits in its worker's memory comes back after the visibility timeout. An exception ends the whole batch
with a line in the log: its requests never get a result, and whoever waits for one waits in vain. Else as for Celery.
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
