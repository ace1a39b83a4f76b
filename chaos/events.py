"""Events of batches and requests in the ledger's own log (key ``events``, written only while a proof runs)."""

from collections.abc import Mapping
from dataclasses import dataclass

PAGE = 256
"""Entries to read at once: with ends of 128 requests each, that is some 10 MB."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """A batch was claimed. ``at`` is the store's time in ms, as in all events."""

    at: int
    incarnation: str
    field: str
    lane: str
    ids: tuple[bytes, ...]

    @property
    def claim(self) -> tuple[str, str]:
        """The claim's name: no incarnation uses a field twice."""
        return self.incarnation, self.field


@dataclass(frozen=True, slots=True)
class Settled:
    """A batch was settled."""

    at: int
    incarnation: str
    field: str

    @property
    def claim(self) -> tuple[str, str]:
        """Which claim it was."""
        return self.incarnation, self.field


@dataclass(frozen=True, slots=True)
class Released:
    """A batch was released. ``charge``: what its requests were charged: ``start``, ``loss`` or ``none``."""

    at: int
    incarnation: str
    field: str
    charge: str

    @property
    def claim(self) -> tuple[str, str]:
        """Which claim it was."""
        return self.incarnation, self.field


@dataclass(frozen=True, slots=True)
class Registered:
    """A worker's child is ready for bells: its first one, or a replacement."""

    at: int
    incarnation: str


@dataclass(frozen=True, slots=True)
class Ended:
    """Requests ended, with these records: each is a terminal commit."""

    at: int
    records: Mapping[bytes, bytes]


Event = Claimed | Settled | Released | Registered | Ended


def event_of(entry_id: bytes, entry: Mapping[bytes, bytes]) -> Event:
    """Returns one entry of the log as an event."""
    at = int(entry_id.split(b"-")[0])
    what = entry[b"what"].decode()
    if what == "ended":
        return Ended(at, {request_id: record for request_id, record in entry.items() if request_id != b"what"})
    incarnation, field = entry[b"incarnation"].decode(), entry.get(b"field", b"").decode()
    if what == "registered":
        return Registered(at, incarnation)
    if what == "claimed":
        ids = entry[b"ids"]
        each = tuple(ids[place : place + 16] for place in range(0, len(ids), 16))
        return Claimed(at, incarnation, field, entry[b"lane"].decode(), each)
    if what == "settled":
        return Settled(at, incarnation, field)
    assert what == "released", what
    return Released(at, incarnation, field, entry[b"charge"].decode())
