"""Calls to the outside - a model store, a cache elsewhere - each behind a circuit breaker.

A service that does not answer is left alone for a while, so that its death costs no time and no attempt of a request:
what needs it waits (``OutsideDown``), what can do without goes on. Operators see every breaker that is not closed.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import pybreaker
import structlog

log = structlog.get_logger()


class Outside:
    """The breakers of one process. ``tell`` hears the states of those that are not closed, whenever one changes."""

    def __init__(self, tell: Callable[[list[dict[str, str]]], None] = lambda _: None) -> None:
        self._tell = tell
        self._states: dict[str, str] = {}

    def breaker(
        self, name: str, *, failures: int, pause_s: float, answers: Iterable[type[BaseException]] = ()
    ) -> pybreaker.CircuitBreaker:
        """A breaker that opens after so many failures in a row, and lets one call try again after ``pause_s``.

        ``answers``: exceptions that say something of the call and nothing of the service.
        """
        # A caller that is cancelled says nothing of the service either.
        excluded: list[Any] = [asyncio.CancelledError, *answers]
        return pybreaker.CircuitBreaker(
            fail_max=failures, reset_timeout=pause_s, exclude=excluded, name=name, listeners=[_Listener(self._changed)]
        )

    def states(self) -> list[dict[str, str]]:
        """Name and state (``open``, ``half-open``) of each breaker that is not closed."""
        return [
            {"name": name, "state": state} for name, state in self._states.items() if state != pybreaker.STATE_CLOSED
        ]

    def _changed(self, name: str, state: str) -> None:
        log.warning("breaker", name=name, state=state)
        self._states[name] = state
        self._tell(self.states())


class _Listener(pybreaker.CircuitBreakerListener):
    def __init__(self, changed: Callable[[str, str], None]) -> None:
        self._changed = changed

    def state_change(self, cb: Any, old_state: Any, new_state: Any) -> None:  # noqa: ARG002
        self._changed(cb.name, new_state.name)
