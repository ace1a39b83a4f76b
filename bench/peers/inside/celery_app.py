"""The tuned Celery worker: see ``bench.peers.tuned_celery``."""

from typing import Any

from bench.peers.inside.celery_peer import make_app, work

app = make_app(prefetch=64)


@app.task
def score(features: dict[str, Any]) -> dict[str, Any]:
    """One request, all three stages; acknowledged before it runs, as is Celery's default."""
    return work().score([features])[0]


@app.task(acks_late=True, reject_on_worker_lost=True)
def score_late(features: dict[str, Any]) -> dict[str, Any]:
    """The same, acknowledged when it is done."""
    return work().score([features])[0]


@app.task
def score_many(applications: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Many requests in one message."""
    return work().score(applications)


WAYS = {"one a message": (score, 0), "one, late acks": (score_late, 0), "64 a message": (score_many, 64)}
