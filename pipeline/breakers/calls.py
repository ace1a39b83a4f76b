"""Calls to the outside - a model store, a cache elsewhere - each behind a circuit breaker.

A service that does not answer is left alone for a while, so that its death costs no time and no attempt of a request:
what needs it waits (``DependencyDown``), what can do without goes on. Operators see every breaker that is not closed.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pybreaker

from pipeline.telemetry.events.stages import BreakerChanged


class Breakers:
    """The breakers of one process. ``tell`` hears the states of those that are not closed, whenever one changes."""

    def __init__(self, tell: Callable[[list[dict[str, Any]]], None] = lambda _: None) -> None:
        self._tell = tell
        self._states: dict[str, dict[str, Any]] = {}

    def breaker(
        self, name: str, *, pause_s: float, is_down: Callable[[BaseException], bool] = lambda _: True
    ) -> pybreaker.CircuitBreaker:
        """A breaker that opens with the first failure, and lets one call try again after ``pause_s``.

        ``is_down``: whether an exception says that the service is down; others are its answers.
        """

        def says_nothing(error: BaseException) -> bool:
            return isinstance(error, asyncio.CancelledError) or not is_down(error)

        listener = _Listener(lambda state: self.changed(name, state, pause_s))
        return pybreaker.CircuitBreaker(
            fail_max=1, reset_timeout=pause_s, exclude=[says_nothing], name=name, listeners=[listener]
        )

    def states(self) -> list[dict[str, Any]]:
        """Name and state of each breaker that is not closed, since when (Unix seconds), and how long it is left alone.

        After that the next call tries again; until one comes, nobody knows.
        """
        return [state for state in self._states.values() if state["state"] != pybreaker.STATE_CLOSED]

    def changed(self, name: str, state: str, pause_s: float) -> None:
        """A breaker has come to a state, in which what it guards is left alone for ``pause_s``."""
        BreakerChanged(breaker=name, state=state).emit()
        self._states[name] = {"name": name, "state": state, "since": round(time.time(), 3), "pause_s": pause_s}
        self._tell(self.states())


class _Listener(pybreaker.CircuitBreakerListener):
    def __init__(self, changed: Callable[[str], None]) -> None:
        self._changed = changed

    def state_change(self, cb: Any, old_state: Any, new_state: Any) -> None:  # noqa: ARG002
        self._changed(new_state.name)
