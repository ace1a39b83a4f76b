"""What a process does again and again for as long as it lives; whether it still can is known to its health checks.

No error ends it: it is tried again at the next turn. Until it succeeds, the error speaks against the process.
"""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress

from pipeline.contracts.failures import describe
from pipeline.telemetry.events.services import DutyFailed

LONG_S = 60.0
"""No turn of ours takes so long, not even with a store or a driver that does not answer."""


class Duty:
    """One thing that is done again and again."""

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self._clock = clock
        self._error = ""
        self._failing_since = 0.0
        self._begun_at: float | None = None

    def do(self, act: Callable[[], object]) -> None:
        """Do it once. An error is logged when it changes, and known until it is done again; what is none is raised."""
        self._begun_at = self._clock()
        try:
            act()
        except BaseException as error:
            before, self._error = self._error, describe(error)
            if not before:
                self._failing_since = self._clock()
            if self._error != before:
                DutyFailed(duty=self.name, error=self._error).emit(error)
            if not isinstance(error, Exception):
                raise
        else:
            self._error = ""
        finally:
            self._begun_at = None

    def fault(self, for_s: float = 0.0) -> str:
        """Why it is not done, if it has not been for so long; nothing otherwise."""
        now, begun_at = self._clock(), self._begun_at
        if self._error and now - self._failing_since >= for_s:
            return f"{self.name} fails: {self._error}"
        if begun_at is not None and now - begun_at > LONG_S + for_s:
            return f"{self.name} has not come back for {now - begun_at:.0f} s"
        return ""


class Periodic(threading.Thread, ABC):
    """A thread that takes a turn every ``every_s`` seconds until it is stopped."""

    def __init__(self, name: str, every_s: float) -> None:
        super().__init__(name=name, daemon=True)
        self.every_s = every_s
        self._duty = Duty(name)
        self._halt = threading.Event()

    @abstractmethod
    def turn(self) -> None:
        """Do once what it is for."""

    def run(self) -> None:
        """Take turns."""
        while not self._halt.wait(self.every_s):
            with suppress(BaseException):  # it is known by now, and nobody would hear of the end of this thread
                self._duty.do(self.turn)

    def stop(self) -> None:
        """Take no more turns."""
        self._halt.set()

    def fault(self, for_s: float = 0.0) -> str:
        """Why it does not do what it is for, if it has not for so long; nothing if it does, or was told to stop."""
        if self._halt.is_set():
            return ""
        return self._duty.fault(for_s) if self.is_alive() else f"{self.name} does not run"
