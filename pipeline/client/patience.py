"""Patience: calls that must have an answer by their time, and no more calls while others have waited for too long.

``asyncio.timeout`` around each call costs a tenth of an API's CPU. Here one timer looks after all of them, ten times a
second.
"""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from pipeline.contracts.problems import Overloaded, StoreUnavailable

LOOK_S = 0.1
BEHIND_S = 1.0
"""Who comes while another has waited for so long would wait longer still: refused at once, it can go elsewhere."""


class Wait(NamedTuple):
    """One call: since when it waits, and by when it must have its answer. Times are the event loop's."""

    since: float
    by: float
    answer: asyncio.Future[Any]


class Patience:
    """Looks after calls. ``waits`` gives those that have no answer yet, in the order in which they came."""

    def __init__(self, waits: Callable[[], Iterator[Wait]]) -> None:
        self._waits = waits
        self._looking = False

    def check(self, now: float) -> None:
        """Overloaded if this is behind."""
        first = next(self._waits(), None)
        if first is not None and now - first.since > BEHIND_S:
            waited = f"other calls have waited for the store for {BEHIND_S:g} s"
            raise Overloaded(f"{waited}; nothing of this one was sent: send it again later")

    def look(self, loop: asyncio.AbstractEventLoop) -> None:
        """See to it that each has an answer by its time, StoreUnavailable at worst: those of now, and later ones."""
        if not self._looking:
            self._looking = True
            loop.call_later(LOOK_S, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now, some = loop.time(), False
        for wait in self._waits():
            if wait.by <= now:
                wait.answer.set_exception(StoreUnavailable("the store did not answer in time"))
            else:
                some = True
        self._looking = some
        if some:
            loop.call_later(LOOK_S, self._look, loop)
