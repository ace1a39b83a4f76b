"""The sending of a file's rows: what was accepted is told in the file's order, however the sending ends.

Ctrl-C ends it in good order: no more rows are read, what is on its way is waited for, and every accepted request has
been told of. A second Ctrl-C, or a store that does not answer for ``DRAIN_S``, ends it at once; then the last rows
that were sent may have been accepted without anybody knowing (``unknown``).
"""

import asyncio
import contextlib
import math
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pipeline.client.asynchronous import AsyncScoringClient
from pipeline.client.core import has_ended
from pipeline.client.input_chunks import chunks_of
from pipeline.contracts.ids import from_text
from pipeline.contracts.problems import Problem
from pipeline.contracts.status import Status
from pipeline.ledger.keys import SCRIPT_LIMIT

WINDOW = 64
"""Chunks that may have been accepted and not ended: more would only wait longer in the store."""
DRAIN_S = 5.0
Answers = list[Status | Problem]


class Sending:
    """Sends requests, and hands each answer on in their order: as accepted, or with ``wait`` as ended."""

    def __init__(
        self,
        requests: Iterable[dict[str, Any]],
        tell: Callable[[Answers], None],
        *,
        wait: bool = False,
        enough: Callable[[], bool] = lambda: False,
    ) -> None:
        """``tell`` must not raise. ``enough``: whether to send no more, asked before each row."""
        self._requests = requests
        self._enough = enough
        self._tell = tell
        self._wait = wait
        self._taken = 0
        self._answered = 0
        self._untold: deque[Answers] = deque()
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._stop = asyncio.Event()
        self._sent_all = False
        self.interrupted: int | None = None
        """The number of the signal that has ended it."""

    @property
    def unknown(self) -> int:
        """Rows that were taken from the file, and of which nothing was heard."""
        return self._taken - self._answered

    async def run(self, client: AsyncScoringClient) -> None:
        """Send all. Raises a Problem, or what the requests raise; what was accepted has been told by then."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        timers: list[asyncio.TimerHandle] = []

        def interrupt(number: int) -> None:
            if self.interrupted is None:
                self.interrupted = number
                timers.append(loop.call_later(DRAIN_S, task.cancel))
                self.stop()
                client.give_up()
            else:
                task.cancel()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, interrupt, number)
        try:
            await self._run(client)
        except asyncio.CancelledError:
            if self.interrupted is None:
                raise
            task.uncancel()
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)
                if self.interrupted is not None:
                    signal.signal(number, signal.SIG_IGN)  # it ends now: what is left is to put the results in place
            for timer in timers:
                timer.cancel()
            while self._untold:  # how they ended is not known: as they were accepted
                self._tell(self._untold.popleft())

    def stop(self) -> None:
        """Send no more, and wait for no more ends."""
        self._stop.set()
        self._news.set()
        self._room.set()

    async def _run(self, client: AsyncScoringClient) -> None:
        if self._wait:
            client.listen()
        telling = asyncio.create_task(self._tell_all(client))
        telling.add_done_callback(lambda _: self.stop())
        try:
            answering = client.submit_chunks(chunks_of(self._until_stopped(), SCRIPT_LIMIT))
            async with contextlib.aclosing(answering) as submitting:
                async for answers in submitting:
                    self._answered += len(answers)
                    self._untold.append(answers)
                    self._news.set()
                    await self._until_room()
            self._sent_all = True
            self._news.set()
            await telling
        finally:
            telling.cancel()
            with contextlib.suppress(asyncio.CancelledError, Problem):
                await telling

    def _until_stopped(self) -> Iterator[dict[str, Any]]:
        for request in self._requests:
            if self._stop.is_set() or self._enough():
                return
            self._taken += 1
            yield request

    async def _until_room(self) -> None:
        while len(self._untold) >= WINDOW and not self._stop.is_set():
            self._room.clear()
            await self._room.wait()

    async def _tell_all(self, client: AsyncScoringClient) -> None:
        while True:
            while self._untold:
                answers = await self._ended(client, self._untold[0]) if self._wait else self._untold[0]
                self._untold.popleft()
                self._tell(answers)
                self._room.set()
            if self._sent_all:
                return
            self._news.clear()
            await self._news.wait()

    async def _ended(self, client: AsyncScoringClient, answers: Answers) -> Answers:
        """The same requests once all have ended; as they stand if the sending is stopped meanwhile."""
        ids = [
            from_text(each["request_id"]) for each in answers if not isinstance(each, Problem) and not has_ended(each)
        ]
        if not ids:
            return answers
        ends = asyncio.create_task(client.wait_for_all(ids, math.inf))
        stopped = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({ends, stopped}, return_when=asyncio.FIRST_COMPLETED)
            found = ends.result() if ends.done() else await client.wait_for_all(ids, 0)
        finally:
            for task in (ends, stopped):
                task.cancel()
            await asyncio.wait({ends, stopped})
        standing = dict(zip(ids, found, strict=True))
        return [
            each if isinstance(each, Problem) else standing.get(from_text(each["request_id"]), each) for each in answers
        ]
