"""Idle lanes: each lane with work that no worker claims is rung again, until one comes."""

from dataclasses import dataclass

from pipeline.ledger.sweeper.maintenance import Sweeping
from pipeline.telemetry.events.sweepers import LaneRung

MAX_PAUSE_S = 30.0
"""The longest pause between two rings of a lane in whose queue bells wait already."""


@dataclass(slots=True)
class _Rings:
    """When to look at a lane with work again, and when to ring it although bells wait in its queue (clock seconds).

    Where no worker answers, bells must not pile up: the pauses grow. A lane without any bell is rung at once.
    """

    look_at: float
    insist_at: float
    pause_s: float


class IdleLanes:
    """The lanes that had work in the last round. Times are seconds of the sweeper's monotonic clock."""

    def __init__(self, sweeping: Sweeping, idle_s: float) -> None:
        """``idle_s``: how long a lane with work may stand without a claim before it is rung again."""
        self._sweeping = sweeping
        self._idle_s = idle_s
        self._rings: dict[str, _Rings] = {}

    def forget(self) -> None:
        """Forgets what was seen: it was before an outage, or another sweeper led meanwhile."""
        self._rings.clear()

    def ring(self, now: float) -> None:
        """Rings each lane that has had work and no claim for ``idle_s``."""
        self._rings = {
            # A lane is rung after it was seen in two rounds: one alone may come between a bell and its claim.
            lane: self._rings.get(lane) or _Rings(now + self._idle_s / 8, now + self._idle_s, self._idle_s)
            for lane in self._sweeping.lanes_with_work()
        }
        for lane, rings in self._rings.items():
            if now < rings.look_at:
                continue
            answer = self._sweeping.ring_idle(lane, unless_bells_wait=now < rings.insist_at)
            if answer == "served":
                # Look again in each round: its idle time counts from the last claim, which may be nearly over.
                self._rings[lane] = _Rings(now, now + self._idle_s, self._idle_s)
            elif answer == "rung":
                LaneRung(lane=lane).emit()
                rings.pause_s = min(2 * rings.pause_s, MAX_PAUSE_S)
                rings.look_at, rings.insist_at = now + self._idle_s, now + rings.pause_s
