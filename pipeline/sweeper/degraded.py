"""Degraded mode: fewer than half of the expected scoring workers are alive, so their batches may take longer."""

import math

from pipeline.settings import LONGER, Settings
from pipeline.telemetry.events.sweepers import DegradedModeBegins, DegradedModeEnds

WEAK_S = 3.0
"""How long too few workers must be alive before degraded mode begins."""


class DegradedMode:
    """Whether it is on, as the leading sweeper sees it. Times are seconds of that sweeper's monotonic clock."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._strong_at = self._longer_until = -math.inf
        self.on = False

    def resume(self, now: float, *, on: bool) -> None:
        """Goes on as the previous leader left it. Batches may have begun with longer limits under that one."""
        self.on = on
        self._strong_at = -math.inf if on else now
        self._lengthen(now)

    def _lengthen(self, now: float) -> None:
        self._longer_until = now + LONGER * self._settings.hard_limit_s

    def limits_are_longer(self, now: float) -> bool:
        """Whether a batch that runs now may have begun with the longer limits."""
        return now < self._longer_until

    def look(self, now: float, live: int) -> None:
        """Begins degraded mode, or ends it. ``live``: the scoring workers that are alive.

        It begins after a while only: after an outage of the store all workers have to be heard again first.
        """
        expected = self._settings.expected_scoring_workers
        if 2 * live >= expected:
            self._strong_at = now
        on = now - self._strong_at >= WEAK_S
        if on:
            self._lengthen(now)
        if on != self.on:
            self.on = on
            (DegradedModeBegins if on else DegradedModeEnds)(live=live, expected=expected).emit()
