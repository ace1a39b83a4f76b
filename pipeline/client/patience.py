"""Patience: calls that must have an answer by their time, and no more calls while others have waited for too long.

``asyncio.timeout`` around each call costs a tenth of an API's CPU. Here one timer looks after all of them, ten times a
second.
"""

import asyncio
from collections import deque
from typing import Any, NamedTuple

from pipeline.contracts.problems import Overloaded, StoreUnavailable

LOOK_S = 0.1
BEHIND_S = 1.0
"""Who comes while another has waited for so long would wait longer still: refused at once, it can go elsewhere."""


class _Call(NamedTuple):
    since: float
    by: float
    answer: asyncio.Future[Any]


class Patience:
    """Calls under way, in the order in which they came. Times are the event loop's."""

    def __init__(self) -> None:
        self._calls: deque[_Call] = deque()
        self._looking = False

    def expect(self, answer: asyncio.Future[Any], by: float, *, shed: bool) -> None:
        """See to it that there is an answer ``by`` then: StoreUnavailable at worst.

        ``shed``: Overloaded if this is behind.
        """
        loop = asyncio.get_running_loop()
        now = loop.time()
        while self._calls and self._calls[0].answer.done():
            self._calls.popleft()
        if shed and self._calls and now - self._calls[0].since > BEHIND_S:
            waited = f"other calls have waited for the store for {BEHIND_S:g} s"
            raise Overloaded(f"{waited}; nothing of this one was sent: send it again later")
        self._calls.append(_Call(now, by, answer))
        if not self._looking:
            self._looking = True
            loop.call_later(LOOK_S, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        self._calls = deque(call for call in self._calls if not call.answer.done())
        for call in self._calls:
            if call.by <= now:
                call.answer.set_exception(StoreUnavailable("the store did not answer in time"))
        self._looking = bool(self._calls)
        if self._looking:
            loop.call_later(LOOK_S, self._look, loop)
