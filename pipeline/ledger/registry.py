"""The roster: what the workers that live say of themselves."""

import json
from contextlib import suppress
from typing import Any

from pipeline.contracts.stages import Stage
from pipeline.ledger import keys
from pipeline.store.connection import Client

CLOCK_BEHIND_MS = 1000
"""From here on it is worth a warning that the server's clock is behind the ledger's time."""


def server_ms(client: Client) -> float:
    """The store's clock in milliseconds, which the ledger counts by; tests of clocks shift it."""
    (seconds, micros), offset = client.time(), client.get(keys.OFFSET)
    return float(seconds * 1000 + micros / 1000 + int(offset or 0))


def living(client: Client, now_ms: float, silent_s: float) -> list[dict[str, Any]]:
    """The descriptions of all workers that were heard within ``silent_s``."""
    beating = client.zrangebyscore(keys.BEATS, max(1.0, now_ms - silent_s * 1000), "+inf")
    workers = []
    for description in client.hmget(keys.WORKERS, beating) if beating else ():
        with suppress(ValueError, TypeError):  # what nobody understands is no worker of ours
            workers.append(dict(json.loads(description or b"")))
    return workers


def regular_scoring_workers(workers: list[dict[str, Any]]) -> list[str]:
    """The queues of those that are no standbys."""
    return [each["queue"] for each in workers if each.get("stage") == Stage.SCORING and not each.get("standby")]
