"""What a process does again and again for as long as it lives, and whether it still does, for its health checks.

No error ends a duty: it is tried again at the next turn. Until it succeeds, the process is unhealthy.
"""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress

from pipeline.contracts.failures import describe
from pipeline.telemetry.events.services import DutyFailed

LONG_S = 60.0
"""A turn that takes longer hangs: none of ours does, not even with a store or a driver that does not answer."""


class Duty:
    """One thing that is done again and again, in a thread of its own or in an event loop."""

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self._clock = clock
        self._error = ""
        self._failing_since = 0.0
        self._begun_at: float | None = None

    def do(self, act: Callable[[], object]) -> None:
        """Does it once. An error is logged when it changes, and known until the next success.

        What is not an ``Exception`` (SystemExit, a panic of Rust code) is raised again.
        """
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
        """Returns why it has not been done for ``for_s`` seconds; empty if it has."""
        now, begun_at = self._clock(), self._begun_at
        if self._error and now - self._failing_since >= for_s:
            return f"{self.name} fails: {self._error}"
        if begun_at is not None and now - begun_at > LONG_S + for_s:
            return f"{self.name} has not come back for {now - begun_at:.0f} s"
        return ""


class Periodic(threading.Thread, ABC):
    """A thread that takes a turn every ``every_s`` seconds until it is stopped. Subclasses say what a turn does."""

    def __init__(self, name: str, every_s: float) -> None:
        super().__init__(name=name, daemon=True)
        self.every_s = every_s
        self._duty = Duty(name)
        self._halt = threading.Event()

    @abstractmethod
    def turn(self) -> None:
        """Does the thread's work once."""

    def run(self) -> None:
        """Takes turns until ``stop`` is called."""
        while not self._halt.wait(self.every_s):
            with suppress(BaseException):  # the duty knows it by now; this thread must not end unnoticed
                self._duty.do(self.turn)

    def stop(self) -> None:
        """Lets the thread end after the current turn."""
        self._halt.set()

    def fault(self, for_s: float = 0.0) -> str:
        """Returns why its work has not been done for ``for_s`` seconds; empty if it has, or if it was stopped."""
        if self._halt.is_set():
            return ""
        return self._duty.fault(for_s) if self.is_alive() else f"{self.name} does not run"
