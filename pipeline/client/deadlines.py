"""Deadlines of queued calls, and load shedding: no new calls while others have waited for too long.

``asyncio.timeout`` around each call costs a tenth of an API's CPU. Here one timer checks all of them, ten times a
second.
"""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from pipeline.contracts.problems import Overloaded, StoreUnavailable

CHECK_S = 0.1
BEHIND_S = 1.0
"""A call that comes while another has waited for so long would wait longer still: refused at once, it can go elsewhere.
"""


class Queued(NamedTuple):
    """One call: since when it waits, and by when it must have its answer. Times are the event loop's."""

    since: float
    by: float
    answer: asyncio.Future[Any]


class Deadlines:
    """Keeps the deadlines of calls. ``queued`` gives those that have no answer yet, in the order in which they came."""

    def __init__(self, queued: Callable[[], Iterator[Queued]]) -> None:
        self._queued = queued
        self._timer_runs = False

    def shed(self, now: float) -> None:
        """Raise Overloaded if the first call has waited for longer than ``BEHIND_S``."""
        first = next(self._queued(), None)
        if first is not None and now - first.since > BEHIND_S:
            waited = f"other calls have waited for the store for {BEHIND_S:g} s"
            raise Overloaded(f"{waited}; nothing of this one was sent: send it again later")

    def keep(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run the timer while calls are queued: each has an answer by its deadline, StoreUnavailable at worst."""
        if not self._timer_runs:
            self._timer_runs = True
            loop.call_later(CHECK_S, self._check, loop)

    def _check(self, loop: asyncio.AbstractEventLoop) -> None:
        now, some = loop.time(), False
        for call in self._queued():
            if call.by <= now:
                call.answer.set_exception(StoreUnavailable("the store did not answer in time"))
            else:
                some = True
        self._timer_runs = some
        if some:
            loop.call_later(CHECK_S, self._check, loop)
