"""What a worker's children report to their parent: shared memory with a slot for each child.

A child that is being replaced and its successor live side by side for a while. Each has a slot of its own, so that the
parent never takes what one reports for the other's. The child writes its slot. The parent reads it, says there that a
batch takes too long, and clears the slot when the child is dead. What counts for the worker as a whole stands before
the slots, and outlives a child.
"""

import json
import mmap
import struct
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from pipeline.worker.devices.health import Canary

COUNT = 64
"""More children than any of our pools has."""
_PID = slice(0, 8)
_SINCE = slice(8, 16)
_TOLD = slice(16, 24)
_CANARY = slice(24, 41)
_REGISTERED = 41
_FIELD = slice(48, 80)
_BREAKERS = slice(80, 80 + 2048)
_MODELS = slice(_BREAKERS.stop, _BREAKERS.stop + 4096)
SIZE = _MODELS.stop
NAME_LIMIT = 100
_NEVER = bytes(8)
_SETTLED = slice(0, 8)
_FIRST = 64
"""Where the first slot begins; before it stands how many batches were settled."""
Item = TypeVar("Item")


class Slot:
    """One child's slot."""

    def __init__(self, memory: mmap.mmap, start: int, clock: Callable[[], float]) -> None:
        # In this order: the child's process id; since when its batch runs; the same, copied by the parent when it says
        # that this batch takes too long; since when the canary runs, how long the last one took, and whether it was
        # wrong; whether the child has registered; the field of the batch that it began last; its breakers that are not
        # closed, and its models, as JSON.
        self._memory = memory
        self._start = start
        self._clock = clock

    def _read(self, part: slice) -> bytes:
        return self._memory[self._start + part.start : self._start + part.stop]

    def _write(self, part: slice, value: bytes) -> None:
        self._memory[self._start + part.start : self._start + part.stop] = value.ljust(part.stop - part.start, b"\0")

    @property
    def pid(self) -> int:
        """The child's process id; 0 if the slot is free."""
        return int.from_bytes(self._read(_PID), "big")

    def take(self, pid: int) -> None:
        """Gives the slot to this child, of which nothing is known yet."""
        self.clear()
        self._write(_PID, pid.to_bytes(8, "big"))

    def clear(self) -> None:
        """Forgets the child."""
        self._memory[self._start : self._start + SIZE] = bytes(SIZE)

    @property
    def registered(self) -> bool:
        """Whether the child has loaded its stage and can answer bells."""
        return self._memory[self._start + _REGISTERED] == 1

    def register(self) -> None:
        """Reports that the child can answer bells."""
        self._memory[self._start + _REGISTERED] = 1

    def began(self, field: str) -> None:
        """Reports that the child begins to run the batch of this field of the claims."""
        self.ended()
        self._write(_FIELD, field.encode())
        self._write(_TOLD, _NEVER)
        self._write(_SINCE, struct.pack("d", self._clock()))

    def ended(self) -> None:
        """Reports that the batch has run. Until the next one begins, it is still charged if the child dies."""
        self._write(_SINCE, _NEVER)

    @property
    def running(self) -> str:
        """The field of the batch that the child began last, which is charged if it dies. Empty: it has begun none."""
        return self._read(_FIELD).rstrip(b"\0").decode()

    @property
    def running_s(self) -> float:
        """How long the child's batch has been running, in seconds of the host's clock; 0 if it runs none."""
        (since,) = struct.unpack("d", self._read(_SINCE))
        return max(1e-9, self._clock() - since) if since else 0.0

    def tell_too_long(self) -> None:
        """Says of the batch that runs now, and of no other, that it takes too long."""
        self._write(_TOLD, self._read(_SINCE))

    def overran(self) -> bool:
        """Whether the parent has said of the batch that runs now that it takes too long."""
        since = self._read(_SINCE)
        return since != _NEVER and since == self._read(_TOLD)

    def settled(self) -> None:
        """Counts a batch as settled."""
        self._memory[_SETTLED] = (_count(self._memory) + 1).to_bytes(8, "big")

    def canary_began(self) -> None:
        """Reports that the child's canary begins."""
        self._write(_CANARY, struct.pack("dd?", self._clock(), self.canary.took_s or 0.0, False))

    def canary_ended(self, *, right: bool) -> None:
        """Reports that the canary has come back, and whether with the right answer."""
        self._write(_CANARY, struct.pack("dd?", 0.0, self.canary.running_s, not right))

    @property
    def canary(self) -> Canary:
        """What the child has reported of its canary."""
        since, took_s, wrong = struct.unpack("dd?", self._read(_CANARY))
        return Canary(took_s or None, self._clock() - since if since else 0.0, wrong)

    @property
    def breakers(self) -> list[dict[str, Any]]:
        """The child's breakers that are not closed; ValueError while it is writing them."""
        found: list[dict[str, Any]] = json.loads(self._read(_BREAKERS).rstrip(b"\0") or b"[]")
        return found

    def report_breakers(self, breakers: list[dict[str, Any]]) -> None:
        """Sets which breakers are not closed; of more than there is room for, as many as fit, and a count."""
        short = [{**each, "name": _cut(each["name"])} for each in breakers]
        self._write(_BREAKERS, _fitting(short, _BREAKERS, lambda left: {**short[-1], "name": f"and {left} more"}))

    @property
    def models(self) -> list[str]:
        """The models that the child holds in memory; ValueError while it is writing them."""
        found: list[str] = json.loads(self._read(_MODELS).rstrip(b"\0") or b"[]")
        return found

    def report_models(self, models: list[str]) -> None:
        """Sets which models are in memory; of more than there is room for, as many as fit, and a count."""
        self._write(_MODELS, _fitting([*map(_cut, models)], _MODELS, lambda left: f"and {left} more"))


def _count(memory: mmap.mmap) -> int:
    return int.from_bytes(memory[_SETTLED], "big")


def _cut(name: str) -> str:
    return name if len(name) <= NAME_LIMIT else name[: NAME_LIMIT - 1] + "…"


def _fitting(items: list[Item], part: slice, rest: Callable[[int], Item]) -> bytes:
    """JSON of all items, or of the first ones and of ``rest``, which stands for so many others."""
    room = part.stop - part.start

    def text(kept: int) -> bytes:
        left = len(items) - kept
        return json.dumps([*items[:kept], rest(left)] if left else items).encode()

    everything = text(len(items))
    if len(everything) <= room:
        return everything
    return text(bisect_left(range(1, len(items)), True, key=lambda kept: len(text(kept)) > room))


class Slots:
    """The slots of one worker, shared with the children that are forked after this object was made."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock``: the host's monotonic seconds, by which batches and canaries are timed."""
        self._memory = mmap.mmap(-1, _FIRST + COUNT * SIZE)
        self._slots = [Slot(self._memory, _FIRST + place * SIZE, clock) for place in range(COUNT)]

    def __iter__(self) -> Iterator[Slot]:
        """Those that a child has taken."""
        return (slot for slot in self._slots if slot.pid)

    def of(self, pid: int) -> Slot | None:
        """This child's slot, if it has one."""
        return next((slot for slot in self if slot.pid == pid), None)

    def take(self, pid: int) -> Slot:
        """Takes a slot for this child. Children that are forked together begin to look at different places."""
        for place in range(COUNT):
            slot = self._slots[(pid + place) % COUNT]
            if slot.pid in (0, pid):
                slot.take(pid)
                return slot
        raise RuntimeError(f"a worker has room for {COUNT} children, and all of it is taken: give it fewer")

    @property
    def settled_batches(self) -> int:
        """How many batches the children have settled, those that are dead included."""
        return _count(self._memory)

    @property
    def canary(self) -> Canary:
        """The worst of what the children report of their canaries."""
        canaries = [slot.canary for slot in self]
        took = [canary.took_s for canary in canaries if canary.took_s is not None]
        return Canary(
            max(took, default=None),
            max((canary.running_s for canary in canaries), default=0.0),
            any(canary.wrong for canary in canaries),
        )

    def forget(self, pid: int) -> None:
        """Clears the slot of a dead child."""
        slot = self.of(pid)
        if slot is not None:
            slot.clear()
