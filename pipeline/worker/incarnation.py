"""A worker's incarnation: the name under which its children claim, and what operators see of it.

The parent beats for the name (see ``heartbeat``); its children read it from memory that they share. An incarnation that
was fenced for its silence stays dead: the parent takes a new name before anything is claimed again.
"""

import json
import mmap
import os
import secrets
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from pipeline.ledger.scripts import Scripts
from pipeline.store.connection import Client
from pipeline.worker import slots
from pipeline.worker.devices.health import Canary

_NAME_BYTES = 32
_READY = _NAME_BYTES
_CHILD = slice(40, 48)
_SETTLED = slice(48, 56)
_SLOTS = 64


class Incarnation:
    """The present name of this worker, shared with the children that are forked after this object was made."""

    def __init__(self, stage: str, queue: str, device: str, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock``: monotonic seconds, by which the children's batches are timed."""
        # The name; one byte that a child sets once it can answer bells; the process id of the child that registered
        # last; how many batches were settled; what each child reports.
        self._shared = mmap.mmap(-1, _SLOTS + slots.COUNT * slots.SIZE)
        self.children = slots.Slots(self._shared, _SLOTS, clock)
        """What each child reports."""
        self._own: slots.Slot | None = None
        self._description: dict[str, Any] = {
            "stage": stage,
            "queue": queue,
            "device": device,
            "host": socket.gethostname(),
            "pid": os.getpid(),
        }
        self.claims = True
        """Whether its children claim: always, unless it is a standby."""
        self.degraded = False
        """Whether the last heartbeat was answered in degraded mode, in which batches may take longer."""
        self.child_device = "cpu"
        """The device under the name that the child knows. It sees no other."""
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
        """This child's own slot."""
        assert self._own is not None, "only a child that has begun reports anything"
        return self._own

    def child_begins(self, pid: int) -> None:
        """Gives this process, a child, the slot in which it reports to its parent."""
        self._own = self.children.take(pid)

    def began(self, field: str) -> None:
        """Reports that this child begins to run the batch of this field of the claims."""
        self._slot.began(field)

    def overran(self) -> bool:
        """Whether its parent has said that the batch that it runs takes too long."""
        return self._slot.overran

    def ended(self) -> None:
        """Reports that the batch has run."""
        self._slot.ended()

    def settled(self) -> None:
        """Counts a batch as settled."""
        self._shared[_SETTLED] = (self.settled_batches + 1).to_bytes(8, "big")

    @property
    def settled_batches(self) -> int:
        """How many batches the children have settled."""
        return int.from_bytes(self._shared[_SETTLED], "big")

    def canary_began(self) -> None:
        """Reports that this child's canary begins."""
        self._slot.canary_began()

    def canary_ended(self, *, right: bool) -> None:
        """Reports that the canary has come back, and whether with the right answer."""
        self._slot.canary_ended(right=right)

    @property
    def canary(self) -> Canary:
        """The worst of what the children report of their canaries."""
        canaries = [slot.canary for slot in self.children]
        took = [canary.took_s for canary in canaries if canary.took_s is not None]
        return Canary(
            max(took, default=None),
            max((canary.running_s for canary in canaries), default=0.0),
            any(canary.wrong for canary in canaries),
        )

    def stand_by(self) -> None:
        """Makes this worker a standby, which claims only when it is told to."""
        self._description["standby"], self.claims = True, False

    def report_health(self, health: dict[str, Any]) -> None:
        """Sets what the parent knows of the device. Operators see it with the next heartbeat."""
        self._description["health"] = health

    def register(self, client: Client, child: int | None = None) -> None:
        """Registers the name with the ledger; before this nothing can be claimed. ``child``: the one that is ready."""
        if child is not None:
            self._slot.register()
            self._shared[_CHILD] = child.to_bytes(8, "big")
        Scripts(client).heartbeat(args=[self.name, self.description(), "1"])
        self._shared[_READY] = 1

    def rename(self) -> None:
        """Takes a new name, which is not registered yet."""
        self._shared[:_NAME_BYTES] = secrets.token_hex(16).encode()
        self._description["started_ms"] = round(time.time() * 1000)

    def report_breakers(self, breakers: list[dict[str, Any]]) -> None:
        """Sets which of this child's breakers are not closed. Operators see it with the next heartbeat."""
        self._slot.report_breakers(breakers)

    def report_models(self, models: list[str]) -> None:
        """Sets which models this child holds in memory."""
        self._slot.report_models(models)

    def description(self) -> str:
        """What operators see of this worker, as JSON."""
        with suppress(ValueError):  # a child writes just now: the next heartbeat has it
            self._description["breakers"] = [breaker for slot in self.children for breaker in slot.breakers]
            self._description["models"] = list(dict.fromkeys(name for slot in self.children for name in slot.models))
        return json.dumps(self._description | {"child": self.child, "claims": self.claims})
