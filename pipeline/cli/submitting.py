"""Submitting a file's rows: what was accepted is reported in the file's order, however the submission ends.

Ctrl-C ends it in good order: no more rows are read, what is on its way is waited for, and every accepted request is
reported. A second Ctrl-C, or a store that does not answer for ``DRAIN_S``, ends it at once; then the last rows that
were sent may have been accepted without an answer (``unknown``).
"""

import asyncio
import contextlib
import math
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pipeline.client.asynchronous import AsyncScoringClient
from pipeline.client.core import Core, has_ended
from pipeline.client.input_chunks import SourceFailed, chunks_of
from pipeline.client.streaming import submit_chunks
from pipeline.client.waiting import wait_for_ends
from pipeline.contracts.ids import from_text
from pipeline.contracts.problems import Problem
from pipeline.contracts.status import Status
from pipeline.ledger.keys import SCRIPT_LIMIT

WINDOW = 64
"""Chunks that may have been accepted and not ended: more would only wait longer in the store."""
DRAIN_S = 5.0
Answers = list[Status | Problem]


class Sending:
    """Sends requests, and reports their answers in order: as accepted, or with ``wait`` as ended."""

    def __init__(
        self,
        requests: Iterable[dict[str, Any]],
        report: Callable[[Answers], None],
        *,
        wait: bool = False,
        enough: Callable[[], bool] = lambda: False,
    ) -> None:
        """``report`` must not raise. ``enough``: whether to send no more, asked before each row."""
        self._requests = requests
        self._enough = enough
        self._report = report
        self._wait = wait
        self._taken = 0
        self._answered = 0
        self._unreported: deque[Answers] = deque()
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._stop = asyncio.Event()
        self._sent_all = False
        self.interrupted: int | None = None
        """The number of the signal that ended it."""

    @property
    def unknown(self) -> int:
        """How many rows were taken from the file and not answered."""
        return self._taken - self._answered

    async def run(self, client: AsyncScoringClient) -> None:
        """Send all. Raises a Problem, or what the requests raise; what was accepted has been reported by then."""
        core, loop, task = client.core, asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        timers: list[asyncio.TimerHandle] = []

        def interrupt(number: int) -> None:
            if self.interrupted is None:
                self.interrupted = number
                timers.append(loop.call_later(DRAIN_S, task.cancel))
                self.stop()
                core.stop_retrying()
            else:
                task.cancel()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, interrupt, number)
        try:
            await self._run(core)
        except asyncio.CancelledError:
            if self.interrupted is None:
                raise
            task.uncancel()
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)
                if self.interrupted is not None:
                    signal.signal(number, signal.SIG_IGN)  # it ends now: only the results are left to put in place
            for timer in timers:
                timer.cancel()
            while self._unreported:  # their ends are not known: report them as accepted
                self._report(self._unreported.popleft())

    def stop(self) -> None:
        """Send no more, and wait for no more ends."""
        self._stop.set()
        self._news.set()
        self._room.set()

    async def _run(self, core: Core) -> None:
        if self._wait:
            core.listen()
        reporting = asyncio.create_task(self._report_all(core))
        reporting.add_done_callback(lambda _: self.stop())
        try:
            answering = submit_chunks(core, chunks_of(self._until_stopped(), SCRIPT_LIMIT))
            async with contextlib.aclosing(answering) as submitting:
                async for answers in submitting:
                    self._answered += len(answers)
                    self._unreported.append(answers)
                    self._news.set()
                    await self._until_room()
            self._sent_all = True
            self._news.set()
            await reporting
        except SourceFailed as failed:
            raise failed.error from None
        finally:
            reporting.cancel()
            with contextlib.suppress(asyncio.CancelledError, Problem):
                await reporting

    def _until_stopped(self) -> Iterator[dict[str, Any]]:
        for request in self._requests:
            if self._stop.is_set() or self._enough():
                return
            self._taken += 1
            yield request

    async def _until_room(self) -> None:
        while len(self._unreported) >= WINDOW and not self._stop.is_set():
            self._room.clear()
            await self._room.wait()

    async def _report_all(self, core: Core) -> None:
        while True:
            while self._unreported:
                answers = await self._ended(core, self._unreported[0]) if self._wait else self._unreported[0]
                self._unreported.popleft()
                self._report(answers)
                self._room.set()
            if self._sent_all:
                return
            self._news.clear()
            await self._news.wait()

    async def _ended(self, core: Core, answers: Answers) -> Answers:
        """The statuses of the same requests once all have ended, or as they are if the sending is stopped meanwhile."""
        ids = [
            from_text(each["request_id"]) for each in answers if not isinstance(each, Problem) and not has_ended(each)
        ]
        if not ids:
            return answers
        ends = asyncio.create_task(wait_for_ends(core, ids, math.inf))
        stopped = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({ends, stopped}, return_when=asyncio.FIRST_COMPLETED)
            found = ends.result() if ends.done() else await wait_for_ends(core, ids, core.time())
        finally:
            for task in (ends, stopped):
                task.cancel()
            await asyncio.wait({ends, stopped})
        return [
            each if isinstance(each, Problem) else found.get(from_text(each["request_id"]), each) for each in answers
        ]
