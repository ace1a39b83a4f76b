"""Coalescing: calls that arrive while a round trip is under way go out together in the next one. No timer."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import chain
from typing import Generic, TypeVar

from pipeline.client.deadlines import Deadlines, Queued
from pipeline.client.limits import CLOSED_MEANWHILE
from pipeline.service.cancellation import abandon

Item = TypeVar("Item")
Answer = TypeVar("Answer")
# A plain tuple, for there is one for each request: the item, since when it waits and by when it must be answered (the
# event loop's time), and its answer.
_Call = tuple[Item, float, float, asyncio.Future[Answer]]


class Coalescer(Generic[Item, Answer]):
    """Shares round trips between concurrent calls of one event loop.

    ``send`` takes up to ``limit`` items and when it must be done (the loop's time), and gives one answer for each. An
    answer that is an exception is raised to its caller; an exception that ``send`` raises, to all callers of that round
    trip.
    """

    def __init__(
        self, send: Callable[[Sequence[Item], float], Awaitable[Sequence[Answer | Exception]]], limit: int
    ) -> None:
        self._send = send
        self._limit = limit
        self._queue: deque[_Call[Item, Answer]] = deque()
        self._sent: list[_Call[Item, Answer]] = []
        self._sender: asyncio.Task[None] | None = None
        self._deadlines = Deadlines(self._unanswered)
        self._closed = False

    async def __call__(self, item: Item, by: float, *, shed: bool = False) -> Answer:
        """The answer to one item; StoreUnavailable if there is none ``by`` then (the loop's time).

        ``shed``: Overloaded at once if others have waited for so long that this call would not be answered in time.
        """
        if self._closed:
            raise RuntimeError(CLOSED_MEANWHILE)
        loop = asyncio.get_running_loop()
        now = loop.time()
        future: asyncio.Future[Answer] = loop.create_future()
        if shed:
            self._deadlines.shed(now)
        self._queue.append((item, now, by, future))
        self._deadlines.keep(loop)
        if self._sender is None:
            self._sender = loop.create_task(self._drain())
        return await future

    async def close(self) -> None:
        """Send no more; every waiting call gets a RuntimeError."""
        self._closed = True
        await abandon(self._sender)
        for call in self._unanswered():
            call.answer.set_exception(RuntimeError(CLOSED_MEANWHILE))

    def _unanswered(self) -> Iterator[Queued]:
        for _, since, by, answer in chain(self._sent, self._queue):
            if not answer.done():
                yield Queued(since, by, answer)

    async def _drain(self) -> None:
        try:
            while self._queue:
                count = min(self._limit, len(self._queue))
                # A call whose caller is gone counts as failed: it must not be sent after all.
                self._sent = [call for call in (self._queue.popleft() for _ in range(count)) if not call[3].done()]
                if self._sent:
                    await self._round_trip(self._sent)
        finally:
            self._sent = []
            self._sender = None

    async def _round_trip(self, calls: list[_Call[Item, Answer]]) -> None:
        try:
            answers = await self._send([call[0] for call in calls], max([call[2] for call in calls]))
        except BaseException as error:
            for _, _, _, future in calls:
                if future.done():
                    continue
                if isinstance(error, Exception):
                    future.set_exception(error)
                else:
                    future.set_exception(RuntimeError(CLOSED_MEANWHILE) if self._closed else asyncio.CancelledError())
            if not isinstance(error, Exception):
                raise
            return
        for (_, _, _, future), answer in zip(calls, answers, strict=True):
            if future.done():  # the caller is gone
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)
