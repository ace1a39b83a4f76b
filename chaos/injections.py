"""Injected faults: what each was aimed at, and the record of a run."""

from collections.abc import Collection
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Injection:
    """One injected fault, and how to find in the ledger's log what it affected.

    ``at``: when (the store's ms). ``targets``: the incarnations that it hit; ``pid``: of this child alone.
    ``lanes``: lanes that it hit, with work arriving all the time. ``poison``: a request that hits every batch it is
    claimed in. ``ending``: requests that felt it from their acceptance to their end. ``took_s``: measured on the spot,
    for a fault that hits no batch.
    """

    fault: str
    at: float
    targets: Collection[str] = ()
    pid: int | None = None
    lanes: Collection[str] = ()
    poison: bytes | None = None
    ending: Collection[bytes] = ()
    took_s: float = 0.0


@dataclass(slots=True)
class Record:
    """What a run's faults leave for its report."""

    injections: list[Injection] = field(default_factory=list)
    unmet: list[str] = field(default_factory=list)
    """What a fault should have led to, and did not."""
    uncharged: list[tuple[float, float]] = field(default_factory=list)
    """From when to when (ms) no attempt may be charged."""

    def add(self, injection: Injection) -> None:
        """Adds one injection."""
        self.injections.append(injection)
