"""Gathering: calls that arrive while a round trip is under way go out together in the next one. No timer."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

from pipeline.abandoning import abandon
from pipeline.client.limits import CLOSED, CLOSED_MEANWHILE
from pipeline.client.patience import Patience

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class _Call(NamedTuple, Generic[Item, Answer]):
    item: Item
    by: float
    answer: asyncio.Future[Answer]


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
        self._sender: asyncio.Task[None] | None = None
        self._patience = Patience()
        self._closed = False

    async def __call__(self, item: Item, by: float, *, shed: bool = False) -> Answer:
        """The answer to one item; StoreUnavailable if there is none ``by`` then (the loop's time).

        ``shed``: Overloaded at once if others have waited for so long that it would not be answered in time.
        """
        if self._closed:
            raise RuntimeError(CLOSED)
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._patience.expect(future, by, shed=shed)
        self._queue.append(_Call(item, by, future))
        if self._sender is None:
            self._sender = asyncio.create_task(self._drain())
        return await future

    async def close(self) -> None:
        """Send no more: RuntimeError for all who wait."""
        self._closed = True
        await abandon(self._sender)
        while self._queue:
            self._fail(self._queue.popleft(), RuntimeError(CLOSED_MEANWHILE))

    async def _drain(self) -> None:
        try:
            while self._queue:
                count = min(self._limit, len(self._queue))
                calls = [self._queue.popleft() for _ in range(count)]
                # Who has gone meanwhile was told that it has failed: it is not to be sent after all.
                calls = [call for call in calls if not call.answer.done()]
                if calls:
                    await self._round_trip(calls)
        finally:
            self._sender = None

    async def _round_trip(self, calls: list[_Call[Item, Answer]]) -> None:
        try:
            answers = await self._send([call.item for call in calls], max([call.by for call in calls]))
        except Exception as error:  # noqa: BLE001 - raised to the callers
            for call in calls:
                self._fail(call, error)
            return
        except BaseException:
            for call in calls:
                self._fail(call, RuntimeError(CLOSED_MEANWHILE) if self._closed else asyncio.CancelledError())
            raise
        for call, answer in zip(calls, answers, strict=True):
            if call.answer.done():  # the caller has gone
                continue
            if isinstance(answer, Exception):
                call.answer.set_exception(answer)
            else:
                call.answer.set_result(answer)

    @staticmethod
    def _fail(call: _Call[Item, Answer], error: BaseException) -> None:
        if not call.answer.done():
            call.answer.set_exception(error)
