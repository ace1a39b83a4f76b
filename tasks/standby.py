"""A standby: a scoring worker that is loaded and warm, and claims only while fewer than expected live.

It counts the regular workers, never other standbys: two of them would otherwise take turns at sending each other away.
What wakes it is the queue's own consumer, taken up and put down; a bell that it has heard meanwhile is answered.
"""

from typing import Any

from pipeline.ledger.clock import server_ms
from pipeline.ledger.registry import living, regular_scoring_workers
from pipeline.service.periodic import Periodic
from pipeline.settings import Settings
from pipeline.store.connection import Client
from pipeline.store.errors import StoreError
from pipeline.telemetry.events.workers import StandbyChanged
from pipeline.worker.incarnation import Incarnation

LOOK_S = 0.5


class Standby(Periodic):
    """Counts who lives, twice a second; its worker's event loop, which must not wait for the store, does the rest."""

    def __init__(self, incarnation: Incarnation, queue: str, client: Client, settings: Settings) -> None:
        super().__init__("standby", LOOK_S)
        self._incarnation = incarnation
        self._queue = queue
        self._client = client
        self._expected = settings.expected_scoring_workers
        self._silent_s = settings.lease_ttl_s
        self._needed = False
        incarnation.stand_by()

    def turn(self) -> None:
        """Count once. While the store is away nobody knows better than before."""
        try:
            queues = regular_scoring_workers(living(self._client, server_ms(self._client), self._silent_s))
        except StoreError:
            return
        # Who is expected is one number for all pools: a pool without a worker is short of one in any case.
        needed = len(queues) < self._expected or self._queue not in queues
        if needed != self._needed:
            StandbyChanged(serves=needed, live=len(queues), expected=self._expected).emit()
            self._needed = needed

    def begin(self, consumer: Any) -> None:
        """Have the worker hear no bell unless one is needed. From its event loop, before it consumes anything."""
        consumer.cancel_task_queue(self._queue)
        self.hear(consumer)

    def hear(self, consumer: Any) -> None:
        """Have the worker hear bells, or not. From its event loop, often."""
        hears = consumer.task_consumer.consuming_from(self._queue)
        if self._needed and not hears:
            consumer.add_task_queue(self._queue)
        elif hears and not self._needed:
            consumer.cancel_task_queue(self._queue)
        self._incarnation.claims = self._needed
