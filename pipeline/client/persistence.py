"""Trying again: through outages of the store, and after refusals that pass.

An outage leaves open whether a call was carried out. An accept is therefore sent again as the same parcel: its
receipt tells the ledger what it has answered already, and however often it is sent, each request is accepted once.
"""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    retry_if_exception_type,
    retry_if_result,
    stop_after_delay,
    wait_random_exponential,
)

from pipeline.contracts.problems import Problem, StoreUnavailable
from pipeline.contracts.status import Status
from pipeline.ledger.parcels import RECEIPT_S, Accepted, Known, Parcel, Submission
from pipeline.ledger.producing import Producing

Result = TypeVar("Result")
LONGEST_PAUSE_S = 10.0


def passes(outcome: object) -> bool:
    """Whether this is a problem that may be gone later."""
    return isinstance(outcome, Problem) and outcome.retry_after_s is not None


class Persistence:
    """The producers' side of the ledger, tried again for up to ``retry_for_s`` (0: not at all)."""

    def __init__(self, producing: Producing, retry_for_s: float) -> None:
        if not 0 <= retry_for_s <= RECEIPT_S / 2:
            raise ValueError(f"retry_for_s was {retry_for_s:g}; allowed: 0 to {RECEIPT_S // 2} s")
        self._producing = producing
        self._retry_for_s = retry_for_s
        self._given_up = asyncio.Event()

    def give_up(self) -> None:
        """Try nothing again from now on, but for what waits to be tried again: that has one more try, at once."""
        self._given_up.set()

    async def accept_once(
        self, submissions: Sequence[Submission], after: Awaitable[object] | None = None
    ) -> list[Accepted | Known | Problem]:
        """Accept up to ``SCRIPT_LIMIT`` requests, through outages. Refusals are answers."""
        parcel = Parcel(submissions)
        return await self._through_outages(lambda: self._producing.send(parcel, after))

    async def accept(
        self, submissions: Sequence[Submission], after: Awaitable[object] | None = None
    ) -> list[Accepted | Known | Problem]:
        """The same; those refused for a while are sent again meanwhile."""
        answers = await self.accept_once(submissions, after)

        async def send_refused() -> bool:
            places = [place for place, answer in enumerate(answers) if passes(answer)]
            again = await self.accept_once([submissions[place] for place in places])
            for place, answer in zip(places, again, strict=True):
                answers[place] = answer
            return any(map(passes, again))

        if self._retry_for_s and any(map(passes, answers)):
            await self._again(send_refused, next(filter(passes, answers)), retry_if_result(bool))
        return answers

    async def until_accepted(self, accept: Callable[[], Awaitable[Result]]) -> Result:
        """Call until it is not refused for a while only."""
        try:
            return await accept()
        except Problem as refused:
            if not self._retry_for_s or not passes(refused) or isinstance(refused, StoreUnavailable):
                raise
            return await self._again(accept, refused, retry_if_exception(passes))

    async def read(self, request_ids: Sequence[bytes]) -> list[Status | Problem]:
        """How requests stand, through outages."""
        return await self._through_outages(lambda: self._producing.read(request_ids))

    async def cancel(self, request_id: bytes) -> Status:
        """Cancel a request, through outages: who is told that it is cancelled already may have done it."""
        return await self._through_outages(lambda: self._producing.cancel(request_id))

    async def _through_outages(self, call: Callable[[], Awaitable[Result]]) -> Result:
        try:
            return await call()
        except StoreUnavailable as outage:
            if not self._retry_for_s:
                raise
            return await self._again(call, outage, retry_if_exception_type(StoreUnavailable))

    async def _again(
        self, call: Callable[[], Awaitable[Result]], first: object, retry: retry_if_exception | retry_if_result
    ) -> Result:
        """Pauses from what the problem asks for, growing, with full jitter. The last outcome stands."""
        asked = (isinstance(first, Problem) and first.retry_after_s) or 1
        await self._pause(random.uniform(0, asked))  # noqa: S311
        too_late = stop_after_delay(self._retry_for_s)
        retrying = AsyncRetrying(
            retry=retry,
            stop=lambda state: self._given_up.is_set() or too_late(state),
            sleep=self._pause,
            wait=wait_random_exponential(multiplier=2 * asked, max=LONGEST_PAUSE_S),
            retry_error_callback=_last_outcome,
        )

        async def once() -> Result:  # tenacity awaits what it sees to be a coroutine function
            return await call()

        return await retrying(once)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._given_up.wait()


def _last_outcome(state: RetryCallState) -> Any:
    assert state.outcome is not None
    return state.outcome.result()
