"""Gathering: calls that arrive while a round trip is under way go out together in the next one. No timer."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from pipeline.client.patience import Patience

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Gathering(Generic[Item, Answer]):
    """Shares round trips between concurrent calls of one event loop.

    ``send`` takes up to ``limit`` items and gives one answer for each; an answer that is an exception is raised to
    its caller, an exception that ``send`` raises to all callers of that round trip.
    """

    def __init__(self, send: Callable[[Sequence[Item]], Awaitable[Sequence[Answer | Exception]]], limit: int) -> None:
        self._send = send
        self._limit = limit
        self._queue: deque[tuple[Item, asyncio.Future[Answer]]] = deque()
        self._sender: asyncio.Task[None] | None = None
        self._patience = Patience()

    async def __call__(self, item: Item, by: float | None = None) -> Answer:
        """The answer to one item; StoreUnavailable if there is none ``by`` then (the loop's time), Overloaded."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        if by is not None:
            self._patience.expect(future, by)
        self._queue.append((item, future))
        if self._sender is None:
            self._sender = asyncio.create_task(self._drain())
        return await future

    async def _drain(self) -> None:
        try:
            while self._queue:
                count = min(self._limit, len(self._queue))
                calls = [self._queue.popleft() for _ in range(count)]
                # Who has gone meanwhile was told that it has failed: it is not to be sent after all.
                calls = [call for call in calls if not call[1].done()]
                if calls:
                    await self._round_trip(calls)
        finally:
            self._sender = None

    async def _round_trip(self, calls: list[tuple[Item, asyncio.Future[Answer]]]) -> None:
        try:
            answers = await self._send([item for item, _ in calls])
        except BaseException as error:
            for _, future in calls:
                if not future.done():
                    future.set_exception(error if isinstance(error, Exception) else asyncio.CancelledError())
            if not isinstance(error, Exception):
                raise
            return
        for (_, future), answer in zip(calls, answers, strict=True):
            if future.done():  # the caller has gone
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)
