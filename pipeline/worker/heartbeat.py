"""The heartbeat of a worker: while it beats, the claims of its incarnation are its own.

The sweeper fences an incarnation whose heartbeat was missing for ``lease_ttl_s``, and gives what it held to others. The
next heartbeat is told so, and the worker goes on under a new name.
"""

from pipeline.ledger import keys
from pipeline.ledger.recovery import release_claims
from pipeline.ledger.scripts import Scripts
from pipeline.service.periodic import Periodic
from pipeline.settings import Settings
from pipeline.store.connection import Client
from pipeline.store.errors import StoreError
from pipeline.telemetry.events.workers import HeartbeatFailed, IncarnationFenced, SignOffFailed
from pipeline.worker.incarnation import Incarnation

DEGRADED = 2
"""The answer to a heartbeat in degraded mode."""


class Heartbeat(Periodic):
    """Beats for an incarnation until it is stopped; goes on trying through outages of the store."""

    def __init__(self, incarnation: Incarnation, client: Client, settings: Settings) -> None:
        super().__init__("heartbeat", settings.heartbeat_s)
        self._incarnation = incarnation
        self._client = client
        self._scripts = Scripts(client)

    def turn(self) -> None:
        """Beats once, if a child is ready: before that the name is not registered."""
        if self._incarnation.ready:
            self.beat()

    def beat(self) -> None:
        """Beats once; takes and registers a new name if this one has been fenced."""
        try:
            answer = self._scripts.heartbeat(args=[self._incarnation.name, self._incarnation.description(), "0"])
            self._incarnation.degraded = answer == DEGRADED
            if answer:
                return
            fenced = self._incarnation.name
            self._incarnation.rename()
            self._incarnation.register(self._client)
            IncarnationFenced(fenced=fenced, renamed=self._incarnation.name).emit()
        except StoreError as error:
            HeartbeatFailed(error=str(error)).emit()

    def sign_off(self, queue: str) -> None:
        """Stops beating and leaves a queue. What is still held is given back, so that no claim has to expire first."""
        self.stop()
        if self.is_alive():
            self.join(timeout=5)
        name = self._incarnation.name
        try:
            # Fenced first: or a script might claim for it between these calls.
            release_claims(self._scripts, name, charge="none", fence=True, queue=queue)
            self._client.zrem(keys.BEATS, name)
            self._client.hdel(keys.WORKERS, name)
        except StoreError as error:
            SignOffFailed(error=str(error)).emit()
