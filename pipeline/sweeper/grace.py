"""Grace: when neither the silence of workers nor the age of their batches counts against them.

After an outage of the store no worker could beat, and when the store's clock jumps ahead all heartbeats look old.
"""

import math

from pipeline.ledger.clock import CLOCK_BEHIND_MS
from pipeline.ledger.sweeper.maintenance import Lead
from pipeline.settings import Settings
from pipeline.telemetry.events.sweepers import StoreClockBehind, StoreClockJumped


class Grace:
    """What this sweeper knows of outages and of the store's clock. Times are seconds of its own monotonic clock."""

    def __init__(self, settings: Settings, now: float) -> None:
        """``now``: when this sweeper began."""
        self._settings = settings
        self._looked_at = now
        self._away = False
        self._silence_counts_from = self._age_counts_from = -math.inf
        self._server_ms: int | None = None
        self._clock_behind = False

    def store_was_away(self) -> None:
        """Notes that a round has failed: the next one that succeeds sees how long the store was away."""
        self._away = True

    def passed_s(self, now: float) -> float:
        """Returns the seconds since the last look."""
        return now - self._looked_at

    def look(self, lead: Lead, now: float, overdue_s: float) -> None:
        """Begins a grace period after an outage of the store, or when its clock has jumped ahead.

        ``overdue_s``: the age at which a batch is overdue.
        """
        passed_s, self._looked_at = self.passed_s(now), now
        if self._away and passed_s >= self._settings.lease_ttl_s - 2 * self._settings.heartbeat_s:
            self._begin(now)
        if self._server_ms is not None:
            jump_s = (lead.now_ms - self._server_ms) / 1000 - passed_s
            if jump_s > self._settings.heartbeat_s:
                StoreClockJumped(ahead_s=round(jump_s, 3)).emit()
                self._begin(now)
                self._age_counts_from = now + overdue_s
        self._away, self._server_ms = False, lead.now_ms
        behind = lead.behind_ms > CLOCK_BEHIND_MS
        if behind and not self._clock_behind:
            StoreClockBehind(seconds=lead.behind_ms / 1000).emit()
        self._clock_behind = behind

    def _begin(self, now: float) -> None:
        """Gives workers a lease's time to be heard.

        The next grace period is granted only after silence has counted for as long in between. Otherwise a store that
        fails now and then would keep the claims of dead workers for ever.
        """
        if now >= self._silence_counts_from + self._settings.lease_ttl_s:
            self._silence_counts_from = now + self._settings.lease_ttl_s

    def silence_counts(self, now: float) -> bool:
        """Whether a worker whose heartbeat is old is dead."""
        return now >= self._silence_counts_from

    def age_counts(self, now: float) -> bool:
        """Whether a batch that was claimed long ago is overdue."""
        return now >= self._age_counts_from
