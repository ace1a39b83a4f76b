"""The circuit breaker of a model that has a fallback: opens by failures or slowness over a window of batches.

pybreaker counts failures in a row, which does not fit: a model that fails on some batches, not all, must open it, too.
"""

import time
from collections import deque
from collections.abc import Callable
from typing import Literal

BreakerState = Literal["closed", "open", "half-open"]
WINDOW = 20
"""How many of the latest batches count."""
LASTING_S = 300.0
"""How long a batch counts, in seconds: longer than several that hang."""
LEAST = 3
"""With fewer failures it never opens."""
SHARE = 0.5
PAUSE_S, LONGEST_PAUSE_S = 5.0, 60.0
KEPT_INCIDENTS = 64


class Breaker:
    """Closed: batches go to the model. Open: none does. Half-open, after a pause: one tries, and closes or opens it.

    Each failed trial doubles the pause.
    """

    def __init__(
        self, report: Callable[[BreakerState, float], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``report`` gets each new state, and for how many seconds no batch goes to the model."""
        self._report = report
        self._clock = clock
        self._verdicts: deque[tuple[float, bool]] = deque(maxlen=WINDOW)
        self._incidents: deque[int] = deque(maxlen=KEPT_INCIDENTS)
        self._state: BreakerState = "closed"
        self._until = 0.0
        self._pause_s = PAUSE_S

    @property
    def is_open(self) -> bool:
        """Whether batches do not go to the model; also true while one batch tries."""
        return self._state != "closed"

    @property
    def pause_s(self) -> float:
        """Seconds that a request that waits for the model should wait before it tries again."""
        return max(1.0, self._until - self._clock())

    def admits(self) -> bool:
        """Returns whether the next batch may go to the model. After a pause one batch may: the trial."""
        now = self._clock()
        if self._state == "closed":
            return True
        if now < self._until:
            return False
        self._become("half-open", self._pause_s)  # if this one reports nothing, another tries after that
        return True

    def record(self, *, good: bool) -> None:
        """Records the outcome of a batch that went to the model."""
        now = self._clock()
        if self._state == "half-open":
            if good:
                self._verdicts.clear()
                self._pause_s = PAUSE_S
                self._become("closed", 0)
            else:
                self._open(longer=True)
            return
        self._verdicts.append((now, good))
        recent = [kept for since, kept in self._verdicts if now - since <= LASTING_S]
        failures = recent.count(False)
        if self._state == "closed" and failures >= LEAST and failures >= SHARE * len(recent):
            self._open(longer=False)

    def blame(self, incident: int) -> None:
        """Records a batch that failed in another process or before this one; its requests share an ``incident``."""
        if incident not in self._incidents:
            self._incidents.append(incident)
            if self._state != "half-open":
                self.record(good=False)

    def _open(self, *, longer: bool) -> None:
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S) if longer else PAUSE_S
        self._become("open", self._pause_s)

    def _become(self, state: BreakerState, seconds: float) -> None:
        self._until = self._clock() + seconds
        if state != self._state:
            self._state = state
            self._report(state, seconds)
