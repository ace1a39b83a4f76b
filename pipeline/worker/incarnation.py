"""A worker's incarnation: the name under which it claims, and the heartbeat that keeps its claims its own.

The parent process beats; its children claim under the same name, which they read from shared memory. An incarnation
that was swept for silence is dead for ever: the parent takes a new name before anything is claimed again.
"""

import json
import mmap
import os
import secrets
import socket
import time
from contextlib import suppress
from typing import Any

from pipeline.ledger import keys
from pipeline.ledger.recovery import release_claims
from pipeline.ledger.scripts import Scripts
from pipeline.service.periodic import Periodic
from pipeline.settings import Settings
from pipeline.store.connection import Client
from pipeline.store.errors import StoreError
from pipeline.telemetry.events.workers import HeartbeatFailed, IncarnationFenced, SignOffFailed
from pipeline.worker import slots
from pipeline.worker.devices.health import Canary

DEGRADED = 2
"""What a heartbeat is answered in degraded mode."""
_NAME_BYTES = 32
_READY = _NAME_BYTES
_CHILD = slice(40, 48)
_SETTLED = slice(48, 56)
_SLOTS = 64


class Incarnation:
    """The name of this worker now, shared with the children that are forked after it was made."""

    def __init__(self, stage: str, queue: str, device: str) -> None:
        # The name; one byte that a child sets once it can answer bells; the process id of the child that registered
        # last; how many batches were settled; what each child tells.
        self._shared = mmap.mmap(-1, _SLOTS + slots.COUNT * slots.SIZE)
        self.children = slots.Slots(self._shared, _SLOTS)
        """What each child tells."""
        self._own: slots.Slot | None = None
        self._description: dict[str, Any] = {
            "stage": stage,
            "queue": queue,
            "device": device,
            "host": socket.gethostname(),
            "pid": os.getpid(),
        }
        self.claims = True
        """Whether it claims: always, unless it is a standby."""
        self.degraded = False
        self.child_device = "cpu"
        """The device as the child knows it, which sees no other than its own."""
        self.rename()

    @property
    def name(self) -> str:
        """128 random bits in hex."""
        return self._shared[:_NAME_BYTES].decode()

    @property
    def ready(self) -> bool:
        """Whether a child has loaded its stage and can answer bells."""
        return self._shared[_READY] == 1

    @property
    def child(self) -> int:
        """The process id of the child that registered last; 0 if none has."""
        return int.from_bytes(self._shared[_CHILD], "big")

    @property
    def _slot(self) -> slots.Slot:
        """This child's own."""
        assert self._own is not None, "only a child that has begun tells anything"
        return self._own

    def child_begins(self, pid: int) -> None:
        """This process is a child, and tells its parent from now on what it does."""
        self._own = self.children.take(pid)

    def began(self, field: str) -> None:
        """This child begins to run the batch of this field."""
        self._slot.began(field)

    def overran(self) -> bool:
        """Whether its parent has said that the batch that it runs takes too long."""
        return self._slot.overran

    def ended(self) -> None:
        """It has run."""
        self._slot.ended()

    def settled(self) -> None:
        """It is settled."""
        self._shared[_SETTLED] = (self.settled_batches + 1).to_bytes(8, "big")

    @property
    def settled_batches(self) -> int:
        """How many batches the children have settled."""
        return int.from_bytes(self._shared[_SETTLED], "big")

    def canary_began(self) -> None:
        """This child's canary begins."""
        self._slot.canary_began()

    def canary_ended(self, *, right: bool) -> None:
        """It has come back."""
        self._slot.canary_ended(right=right)

    @property
    def canary(self) -> Canary:
        """The worst of what is known of the children's canaries."""
        canaries = [slot.canary for slot in self.children]
        took = [canary.took_s for canary in canaries if canary.took_s is not None]
        return Canary(
            max(took, default=None),
            max((canary.running_s for canary in canaries), default=0.0),
            any(canary.wrong for canary in canaries),
        )

    def stand_by(self) -> None:
        """This worker is a standby: it claims when it is told to."""
        self._description["standby"], self.claims = True, False

    def observe(self, health: dict[str, Any]) -> None:
        """What its parent knows of the device: operators see it with the next heartbeat."""
        self._description["health"] = health

    def register(self, client: Client, child: int | None = None) -> None:
        """Make the name known to the ledger, from the child that is now ready. Before this it cannot claim."""
        if child is not None:
            self._slot.register()
            self._shared[_CHILD] = child.to_bytes(8, "big")
        Scripts(client).heartbeat(args=[self.name, self.description(), "1"])
        self._shared[_READY] = 1

    def rename(self) -> None:
        """Take a new name."""
        self._shared[:_NAME_BYTES] = secrets.token_hex(16).encode()
        self._description["started_ms"] = round(time.time() * 1000)

    def tell(self, breakers: list[dict[str, Any]]) -> None:
        """This child's breakers that are not closed: seen by operators with the next heartbeat."""
        self._slot.tell(breakers)

    def loaded(self, models: list[str]) -> None:
        """The models that this child holds in memory."""
        self._slot.loaded(models)

    def description(self) -> str:
        """What operators see of this worker, as JSON."""
        with suppress(ValueError):  # a child is writing: the next heartbeat has it
            self._description["breakers"] = [breaker for slot in self.children for breaker in slot.breakers]
            self._description["models"] = list(dict.fromkeys(name for slot in self.children for name in slot.models))
        return json.dumps(self._description | {"child": self.child, "claims": self.claims})


class Heartbeat(Periodic):
    """Beats for an incarnation until stopped; through outages of the store it keeps trying."""

    def __init__(self, incarnation: Incarnation, client: Client, settings: Settings) -> None:
        super().__init__("heartbeat", settings.heartbeat_s)
        self._incarnation = incarnation
        self._client = client
        self._scripts = Scripts(client)

    def turn(self) -> None:
        """Beat, from when the first child is ready."""
        if self._incarnation.ready:
            self.beat()

    def beat(self) -> None:
        """One heartbeat; under a new name after having been fenced."""
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
        """Stop beating and sign off from a queue: what is still held is given back, and nobody mourns a dead worker."""
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
