"""A worker's incarnation: the name under which it claims, and the heartbeat that keeps its claims its own.

The parent process beats; its children claim under the same name, which they read from shared memory. An incarnation
that was swept for silence is dead for ever: the parent takes a new name before anything is claimed again.
"""

import json
import mmap
import os
import secrets
import socket
import struct
import threading
import time
from contextlib import suppress
from typing import Any

import structlog
from redis.exceptions import RedisError

from pipeline.devices.health import Canary
from pipeline.ledger import keys
from pipeline.ledger.claiming import release_claims
from pipeline.ledger.connection import Client
from pipeline.ledger.scripts import Scripts
from pipeline.settings import Settings

log = structlog.get_logger()
DEGRADED = 2
"""What a heartbeat is answered in degraded mode."""
_NAME_BYTES = 32
_READY = _NAME_BYTES
_RUNNING = slice(_READY + 1, _READY + 1 + 32)
_SINCE = slice(_RUNNING.stop, _RUNNING.stop + 8)
_BREAKERS = slice(_SINCE.stop, _SINCE.stop + 512)
_CHILD = slice(_BREAKERS.stop, _BREAKERS.stop + 8)
_CANARY = slice(_CHILD.stop, _CHILD.stop + 17)
_SETTLED = slice(_CANARY.stop, _CANARY.stop + 8)
_MODELS = slice(_SETTLED.stop, _SETTLED.stop + 4096)


class Incarnation:
    """The name of this worker now, shared with the children that are forked after it was made."""

    def __init__(self, stage: str, queue: str, device: str) -> None:
        # The name; one byte that a child sets once it can answer bells; the field of the batch that it ran last; since
        # when it runs; its breakers that are not closed, as JSON; its pid; since when the canary runs, how long the
        # last one took, and whether it was wrong; how many batches were settled; the models in memory, as JSON.
        self._shared = mmap.mmap(-1, _MODELS.stop)
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
    def running(self) -> str:
        """The field of the batch that a child began last: suspect if the child dies. Empty: it has begun none."""
        return self._shared[_RUNNING].rstrip(b"\0").decode()

    @property
    def child(self) -> int:
        """The process id of the child that registered last; 0 if none has."""
        return int.from_bytes(self._shared[_CHILD], "big")

    @property
    def running_s(self) -> float:
        """How long the batch that a child runs has been running; 0 if it runs none (by the host's clock)."""
        (since,) = struct.unpack("d", self._shared[_SINCE])
        return max(1e-9, time.monotonic() - since) if since else 0.0

    def began(self, field: str) -> None:
        """A child begins to run the batch of this field."""
        self.ended()
        self._shared[_RUNNING] = field.encode().ljust(32, b"\0")
        self._shared[_SINCE] = struct.pack("d", time.monotonic())

    def ended(self) -> None:
        """It has run; until the next one begins, the death of the child would still be on its account."""
        self._shared[_SINCE] = bytes(8)

    def settled(self) -> None:
        """It is settled."""
        self._shared[_SETTLED] = (self.settled_batches + 1).to_bytes(8, "big")

    @property
    def settled_batches(self) -> int:
        """How many batches the children have settled."""
        return int.from_bytes(self._shared[_SETTLED], "big")

    def child_begins(self) -> None:
        """A new child: nothing is known of its canary yet."""
        self._shared[_CANARY] = bytes(17)

    def canary_began(self) -> None:
        """The child's canary begins."""
        self._shared[_CANARY] = struct.pack("dd?", time.monotonic(), self.canary.took_s or 0.0, False)

    def canary_ended(self, *, right: bool) -> None:
        """It has come back."""
        self._shared[_CANARY] = struct.pack("dd?", 0.0, self.canary.running_s, not right)

    @property
    def canary(self) -> Canary:
        """What is known of the child's canary."""
        since, took_s, wrong = struct.unpack("dd?", self._shared[_CANARY])
        return Canary(took_s or None, time.monotonic() - since if since else 0.0, wrong)

    def stand_by(self) -> None:
        """This worker is a standby: it claims when it is told to."""
        self._description["standby"], self.claims = True, False

    def observe(self, health: dict[str, Any]) -> None:
        """What its parent knows of the device: operators see it with the next heartbeat."""
        self._description["health"] = health

    def register(self, client: Client, child: int | None = None) -> None:
        """Make the name known to the ledger, from the child that is now ready. Before this it cannot claim."""
        if child is not None:
            self.began("")
            self.ended()
            self._shared[_CHILD] = child.to_bytes(8, "big")
        Scripts(client).beat(args=[self.name, self.description(), "1"])
        self._shared[_READY] = 1

    def rename(self) -> None:
        """Take a new name."""
        self._shared[:_NAME_BYTES] = secrets.token_hex(16).encode()
        self._description["started_ms"] = round(time.time() * 1000)

    def tell(self, breakers: list[dict[str, Any]]) -> None:
        """A child's breakers that are not closed: seen by operators with the next heartbeat."""
        self._write(_BREAKERS, breakers)

    def loaded(self, models: list[str]) -> None:
        """The models that a child holds in memory."""
        self._write(_MODELS, models)

    def _write(self, place: slice, document: list[Any]) -> None:
        text = json.dumps(document).encode()
        size = place.stop - place.start
        self._shared[place] = (text if len(text) <= size else b"[]").ljust(size, b"\0")

    def description(self) -> str:
        """What operators see of this worker, as JSON."""
        with suppress(ValueError):  # the child is writing: the next heartbeat has it
            self._description["breakers"] = json.loads(self._shared[_BREAKERS].rstrip(b"\0") or b"[]")
            self._description["models"] = json.loads(self._shared[_MODELS].rstrip(b"\0") or b"[]")
        return json.dumps(self._description | {"child": self.child, "claims": self.claims})


class Heartbeat(threading.Thread):
    """Beats for an incarnation until stopped; through outages of the store it keeps trying."""

    def __init__(self, incarnation: Incarnation, client: Client, settings: Settings) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self._incarnation = incarnation
        self._client = client
        self._scripts = Scripts(client)
        self._every_s = settings.heartbeat_s
        self._halt = threading.Event()

    def run(self) -> None:
        """Beat every ``heartbeat_s``, from when the first child is ready."""
        while not self._halt.wait(self._every_s):
            if self._incarnation.ready:
                self.beat()

    def beat(self) -> None:
        """One heartbeat; under a new name after having been fenced."""
        try:
            answer = self._scripts.beat(args=[self._incarnation.name, self._incarnation.description(), "0"])
            self._incarnation.degraded = answer == DEGRADED
            if answer:
                return
            fenced = self._incarnation.name
            self._incarnation.rename()
            self._incarnation.register(self._client)
            log.warning("incarnation_fenced", fenced=fenced, renamed=self._incarnation.name)
        except (RedisError, OSError) as error:
            log.warning("heartbeat_failed", error=str(error))

    def stop(self, queue: str) -> None:
        """Stop beating and sign off from a queue: what is still held is given back, and nobody mourns a dead worker."""
        self._halt.set()
        if self.is_alive():
            self.join(timeout=5)
        name = self._incarnation.name
        try:
            # Fenced first: or a script might claim for it between these calls.
            release_claims(self._scripts, name, charge="none", fence=True, queue=queue)
            self._client.zrem(keys.BEATS, name)
            self._client.hdel(keys.WORKERS, name)
        except (RedisError, OSError) as error:
            log.warning("sign_off_failed", error=str(error))
