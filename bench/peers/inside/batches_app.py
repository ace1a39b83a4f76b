"""The celery-batches worker: see ``bench.peers.batches``."""

from typing import Any

from celery_batches import Batches

from bench.peers.inside.celery_peer import make_app, work

app = make_app(prefetch=128)


@app.task(base=Batches, flush_every=64, flush_interval=0.01)
def score(requests: list[Any]) -> None:
    """A batch of requests, all three stages; each gets its own result."""
    results = work().score([request.args[0] for request in requests])
    for request, result in zip(requests, results, strict=True):
        app.backend.mark_as_done(request.id, result, request=request)


WAYS = {"one a message": (score, 0)}
