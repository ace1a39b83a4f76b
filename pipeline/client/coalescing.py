"""Gathering: calls that arrive while a round trip is under way go out together in the next one. No timer."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import chain
from typing import Generic, TypeVar

from pipeline.client.limits import CLOSED_MEANWHILE
from pipeline.client.patience import Patience, Wait
from pipeline.service.cancellation import abandon

Item = TypeVar("Item")
Answer = TypeVar("Answer")
# Plain tuples, for there is one of each for each request: the item, since when and by when (the event loop's time), and
# its answer.
_Call = tuple[Item, float, float, asyncio.Future[Answer]]


class Gathering(Generic[Item, Answer]):
    """Shares round trips between concurrent calls of one event loop.

    ``send`` takes up to ``limit`` items and when it must be done (the loop's time), and gives one answer for each; an
    answer that is an exception is raised to its caller, an exception that ``send`` raises to all callers of that round
    trip.
    """

    def __init__(
        self, send: Callable[[Sequence[Item], float], Awaitable[Sequence[Answer | Exception]]], limit: int
    ) -> None:
        self._send = send
        self._limit = limit
        self._queue: deque[_Call[Item, Answer]] = deque()
        self._under_way: list[_Call[Item, Answer]] = []
        self._sender: asyncio.Task[None] | None = None
        self._patience = Patience(self._waits)
        self._closed = False

    async def __call__(self, item: Item, by: float, *, shed: bool = False) -> Answer:
        """The answer to one item; StoreUnavailable if there is none ``by`` then (the loop's time).

        ``shed``: Overloaded at once if others have waited for so long that it would not be answered in time.
        """
        if self._closed:
            raise RuntimeError(CLOSED_MEANWHILE)
        loop = asyncio.get_running_loop()
        now = loop.time()
        future: asyncio.Future[Answer] = loop.create_future()
        if shed:
            self._patience.check(now)
        self._queue.append((item, now, by, future))
        self._patience.look(loop)
        if self._sender is None:
            self._sender = loop.create_task(self._drain())
        return await future

    async def close(self) -> None:
        """Send no more: RuntimeError for every waiting call."""
        self._closed = True
        await abandon(self._sender)
        for wait in self._waits():
            wait.answer.set_exception(RuntimeError(CLOSED_MEANWHILE))

    def _waits(self) -> Iterator[Wait]:
        for _, since, by, answer in chain(self._under_way, self._queue):
            if not answer.done():
                yield Wait(since, by, answer)

    async def _drain(self) -> None:
        try:
            while self._queue:
                count = min(self._limit, len(self._queue))
                # Who has gone meanwhile was told that it has failed: it is not to be sent after all.
                self._under_way = [call for call in (self._queue.popleft() for _ in range(count)) if not call[3].done()]
                if self._under_way:
                    await self._round_trip(self._under_way)
        finally:
            self._under_way = []
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
            if future.done():  # the caller has gone
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)
