"""What the broker and the result backend still hold of a run. Read once the load is over."""

import base64
import json
from collections.abc import Iterable
from typing import Any

import redis

from chaos.stock.verdict import BrokerState, Sent
from pipeline.contracts.stages import Stage

UNACKED = "unacked"
"""kombu's hash of what was delivered and not acknowledged: delivery tag -> message, exchange, routing key."""


def read_broker_state(url: str, missing: Iterable[Sent]) -> BrokerState:
    """Returns the requests in queues and in the unacknowledged hash and, of ``missing``, those known to have failed."""
    store = redis.Redis.from_url(url)
    queued = [_request(json.loads(raw)) for stage in Stage for raw in store.lrange(str(stage), 0, -1)]
    unacked = [_request(json.loads(raw)[0]) for raw in store.hvals(UNACKED)]
    failed = {}
    for one in missing:
        for raw in store.mget([f"celery-task-meta-{task}" for task in one.tasks]):
            document = json.loads(raw) if raw else {}
            if document.get("status") == "FAILURE":
                failed[one.request] = document["result"]["exc_type"]
    return BrokerState(frozenset(queued), frozenset(unacked), failed)


def _request(message: dict[str, Any]) -> int:
    arguments, _, _ = json.loads(base64.b64decode(message["body"]))
    return int(arguments[0]["request"])
