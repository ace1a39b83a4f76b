"""A standby: a scoring worker that is loaded and warm, and claims only while fewer workers than expected are alive.

It counts the regular workers, never other standbys: two standbys would otherwise take turns at sending each other away.
It starts and stops consuming from its queue; a bell that was delivered meanwhile is answered.
"""

from typing import Any

from pipeline.ledger.clock import server_ms
from pipeline.ledger.registry import live_workers, regular_scoring_workers
from pipeline.service.periodic import Periodic
from pipeline.settings import Settings
from pipeline.store.connection import Client
from pipeline.store.errors import StoreError
from pipeline.telemetry.events.workers import StandbyChanged
from pipeline.worker.incarnation import Incarnation

LOOK_S = 0.5


class Standby(Periodic):
    """Counts the live workers twice a second.

    The worker's event loop acts on the count; it must not wait for the store itself.
    """

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
        """Counts once. While the store is away the latest count holds."""
        try:
            queues = regular_scoring_workers(live_workers(self._client, server_ms(self._client), self._silent_s))
        except StoreError:
            return
        # The number expected is one for all pools: a pool without a worker lacks one in any case.
        needed = len(queues) < self._expected or self._queue not in queues
        if needed != self._needed:
            StandbyChanged(serves=needed, live=len(queues), expected=self._expected).emit()
            self._needed = needed

    def begin(self, consumer: Any) -> None:
        """Stops the worker from consuming unless it is needed. Called in its event loop, before it consumes."""
        consumer.cancel_task_queue(self._queue)
        self.consume_if_needed(consumer)

    def consume_if_needed(self, consumer: Any) -> None:
        """Starts or stops consuming as the latest count says. Called often, in the worker's event loop."""
        consumes = consumer.task_consumer.consuming_from(self._queue)
        if self._needed and not consumes:
            consumer.add_task_queue(self._queue)
        elif consumes and not self._needed:
            consumer.cancel_task_queue(self._queue)
        self._incarnation.claims = self._needed
