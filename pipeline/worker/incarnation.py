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
from pipeline.worker.slots import Slot, Slots

_NAME_BYTES = 32
_READY = _NAME_BYTES
_CHILD = slice(40, 48)
_SIZE = _CHILD.stop


class Incarnation:
    """The present name of this worker, shared with the children that are forked after this object was made."""

    def __init__(self, stage: str, queue: str, device: str, clock: Callable[[], float] = time.monotonic) -> None:
        """``device``: as operators see it. ``clock``: monotonic seconds, by which the children's batches are timed."""
        # The name; one byte that a child sets once it can answer bells; the process id of the last that registered.
        self._shared = mmap.mmap(-1, _SIZE)
        self.children = Slots(clock)
        """What each child reports."""
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

    def rename(self) -> None:
        """Takes a new name, which is not registered yet."""
        self._shared[:_NAME_BYTES] = secrets.token_hex(16).encode()
        self._description["started_ms"] = round(time.time() * 1000)

    def register(self, client: Client, child: Slot | None = None) -> None:
        """Registers the name with the ledger; before this nothing can be claimed. ``child``: the one that is ready."""
        if child is not None:
            child.register()
            self._shared[_CHILD] = child.pid.to_bytes(8, "big")
        Scripts(client).heartbeat(args=[self.name, self.description(), "1"])
        self._shared[_READY] = 1

    def stand_by(self) -> None:
        """Makes this worker a standby, which claims only when it is told to."""
        self._description["standby"], self.claims = True, False

    def report_health(self, health: dict[str, Any]) -> None:
        """Sets what the parent knows of the device. Operators see it with the next heartbeat."""
        self._description["health"] = health

    def description(self) -> str:
        """What operators see of this worker, as JSON."""
        with suppress(ValueError):  # a child writes just now: the next heartbeat has it
            self._description["breakers"] = [breaker for slot in self.children for breaker in slot.breakers]
            self._description["models"] = list(dict.fromkeys(name for slot in self.children for name in slot.models))
        return json.dumps(self._description | {"child": self.child, "claims": self.claims})
