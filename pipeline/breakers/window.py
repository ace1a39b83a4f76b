"""The circuit breaker of a model that has a fallback: opens by failures or slowness over a window of batches.

(A library's counts failures in a row, which one bad row among good ones never gives, and a broken model always does.)
"""

import time
from collections import deque
from collections.abc import Callable
from typing import Literal

BreakerState = Literal["closed", "open", "half-open"]
WINDOW = 20
"""Batches that are looked at, the latest."""
LASTING_S = 300.0
"""How long a batch is looked at: longer than several that hang."""
LEAST = 3
"""Failures without which nothing is concluded."""
SHARE = 0.5
PAUSE_S, LONGEST_PAUSE_S = 5.0, 60.0
KEPT_INCIDENTS = 64


class Breaker:
    """Closed: batches go to the model. Open: none does. Half-open, after a pause: one tries; it closes or opens it.

    After each trial that fails the pause is twice as long.
    """

    def __init__(
        self, tell: Callable[[BreakerState, float], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``tell`` hears each state that it comes to, and how long it will be left alone in it."""
        self._tell = tell
        self._clock = clock
        self._verdicts: deque[tuple[float, bool]] = deque(maxlen=WINDOW)
        self._incidents: deque[int] = deque(maxlen=KEPT_INCIDENTS)
        self._state: BreakerState = "closed"
        self._until = 0.0
        self._pause_s = PAUSE_S

    @property
    def is_open(self) -> bool:
        """Whether the model is left alone; also while one batch tries."""
        return self._state != "closed"

    @property
    def pause_s(self) -> float:
        """How long a request that waits for the model should wait before it asks again."""
        return max(1.0, self._until - self._clock())

    def admits(self) -> bool:
        """Whether the next batch may go to the model. After the pause that is the one that tries."""
        now = self._clock()
        if self._state == "closed":
            return True
        if now < self._until:
            return False
        self._become("half-open", self._pause_s)  # if nothing is heard of this one, another tries after that
        return True

    def record(self, *, good: bool) -> None:
        """What came of a batch that went to the model."""
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
        """A batch has failed elsewhere, or before this process began; ``incident`` is the same for all its requests."""
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
            self._tell(state, seconds)
