"""Whether a device is healthy, suspect or sick: what was seen goes in, the verdict comes out. No driver, no clock."""

from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum

from pipeline.worker.devices.nvml import Reading

SICK_XIDS = frozenset({48, 61, 62, 64, 74, 79, 95, 119, 120, 140, 143})
"""Faults of the hardware: uncorrectable or unmappable memory, links, fallen off the bus, its processor lost."""
SUSPECT_XIDS = frozenset({63, 92, 94, 121, 154})
"""Corrected or contained faults, or the recovery action has changed. All others are faults of programs (13, 31, 43)."""
SICK_ACTIONS = frozenset({"reset the GPU", "reboot the node", "drain and reset", "reset the bus", "reboot the system"})
HOT = frozenset({"hardware slowdown", "thermal, by hardware", "power brake"})
CANARY_LIMIT_S = 10.0
"""The canary computes for microseconds. If it has not come back after so many seconds, it will not."""
DEATHS, DEATHS_S = 3, 60.0
"""So many children that die within so many seconds, with nothing settled in between, make a device suspect."""
KEPT_XIDS = 10


class State(StrEnum):
    """``sick``: it gets no more work. ``suspect``: it works, and an operator should look at it."""

    HEALTHY = "healthy"
    SUSPECT = "suspect"
    SICK = "sick"


@dataclass(frozen=True, slots=True)
class Canary:
    """What a child reports of the canary, a computation with a known answer.

    ``took_s``: how long the last one took; ``running_s``: how long the present one has been running; ``wrong``: the
    last answer was not the known one.
    """

    took_s: float | None = None
    running_s: float = 0.0
    wrong: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """The state of a device, and the reasons for it."""

    state: State
    reasons: tuple[str, ...] = ()


@dataclass(slots=True)
class Health:
    """Judges one device, look by look; remembers what one look alone does not show."""

    xids: deque[int] = field(default_factory=lambda: deque(maxlen=KEPT_XIDS))
    _ecc_before: int | None = None
    _deaths: deque[float] = field(default_factory=lambda: deque(maxlen=DEATHS))

    def child_died(self, now: float) -> None:
        """Takes note of a child's death. ``now``: seconds of any clock, the same at each call."""
        self._deaths.append(now)

    def settled(self) -> None:
        """Takes note that a batch was settled: the children that died before did not die of the device."""
        self._deaths.clear()

    def judge(self, reading: Reading | None, canary: Canary, now: float, *, lost: str = "") -> Verdict:
        """The verdict on what is seen now. ``reading``: None without a driver. ``lost``: why it cannot be read."""
        sick, suspect = self._of_the_driver(reading) if reading else ([], [])
        if lost:
            sick.append(lost)
        if canary.wrong:
            sick.append("the canary's answer is wrong")
        if canary.running_s > CANARY_LIMIT_S:
            sick.append(f"the canary has not come back for {canary.running_s:.0f} s")
        if len(self._deaths) == DEATHS and now - self._deaths[0] <= DEATHS_S:
            suspect.append(f"{DEATHS} processes died on it within {DEATHS_S:.0f} s, and none settled anything")
        if sick:
            return Verdict(State.SICK, (*sick, *suspect))
        return Verdict(State.SUSPECT, tuple(suspect)) if suspect else Verdict(State.HEALTHY)

    def _of_the_driver(self, reading: Reading) -> tuple[list[str], list[str]]:
        sick, suspect = [], []
        self.xids.extend(reading.xids)
        sick += [f"Xid {xid}" for xid in dict.fromkeys(self.xids) if xid in SICK_XIDS]
        suspect += [f"Xid {xid}" for xid in dict.fromkeys(self.xids) if xid in SUSPECT_XIDS]
        if reading.recovery_action not in (None, "none"):
            (sick if reading.recovery_action in SICK_ACTIONS else suspect).append(f"to do: {reading.recovery_action}")
        if self._ecc_before is None:
            self._ecc_before = reading.ecc_errors  # errors from before this worker say nothing of now
        if reading.ecc_errors is not None and self._ecc_before is not None and reading.ecc_errors > self._ecc_before:
            sick.append(f"{reading.ecc_errors - self._ecc_before} memory errors that could not be corrected")
        if reading.remapped is not None:
            if reading.remapped.failed:
                sick.append("no spare rows of memory are left")
            elif reading.remapped.pending:
                suspect.append("rows of memory are replaced at its next reset")
        suspect += [f"slowed down: {reason}" for reason in reading.throttled if reason in HOT]
        return sick, suspect
