"""The registry of workers: what each live worker says of itself with its heartbeat."""

import json
from contextlib import suppress
from typing import Any

from pipeline.contracts.stages import Stage
from pipeline.ledger import keys
from pipeline.store.connection import Client


def live_workers(client: Client, now_ms: float, silent_s: float) -> list[dict[str, Any]]:
    """Returns the descriptions of all workers whose heartbeat is less than ``silent_s`` old (``now_ms``: Unix ms)."""
    beating = client.zrangebyscore(keys.BEATS, max(1.0, now_ms - silent_s * 1000), "+inf")
    workers = []
    for description in client.hmget(keys.WORKERS, beating) if beating else ():
        with suppress(ValueError, TypeError):  # a description that cannot be read is no worker of ours
            workers.append(dict(json.loads(description or b"")))
    return workers


def regular_scoring_workers(workers: list[dict[str, Any]]) -> list[str]:
    """Returns the queue of each scoring worker that is not a standby."""
    return [each["queue"] for each in workers if each.get("stage") == Stage.SCORING and not each.get("standby")]
