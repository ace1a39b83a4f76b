"""Retrying: through outages of the store, and after refusals that pass.

An outage leaves open whether a call was carried out. An accept is therefore sent again as the same batch: its dedup
token tells the ledger what it has answered already, and however often it is sent, each request is accepted once.
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
    wait_random_exponential,
)

from pipeline.client.limits import Calls
from pipeline.contracts.problems import Problem, StoreUnavailable
from pipeline.contracts.releases import ReleaseTable
from pipeline.contracts.status import Status
from pipeline.contracts.tenants import STORE, Caller
from pipeline.ledger.producers.accept import Producing
from pipeline.ledger.producers.submissions import DEDUP_TOKEN_S, Accepted, Known, Submission, SubmissionBatch

Result = TypeVar("Result")
LONGEST_PAUSE_S = 10.0
LAST_S = 0.05
"""With less time left than this nothing is tried again."""


def refused(outcome: object) -> bool:
    """Whether the outcome is a problem that may be gone later, and that says that nothing was accepted.

    StoreUnavailable leaves that open: another batch might be a second acceptance.
    """
    passes = isinstance(outcome, Problem) and outcome.retry_after_s is not None
    return passes and not isinstance(outcome, StoreUnavailable)


class Retrying:
    """The producers' side of the ledger, tried again for up to ``retry_for_s`` (0: not at all).

    A call has ``retry_for_s`` for all of it, but at least ``store_timeout_s``, which one try may take. ``by`` is when
    it must be over (the event loop's time), else StoreUnavailable.
    """

    def __init__(self, producing: Producing, retry_for_s: float, store_timeout_s: float) -> None:
        if not 0 <= retry_for_s <= DEDUP_TOKEN_S / 2:
            raise ValueError(f"retry_for_s was {retry_for_s:g}; allowed: 0 to {DEDUP_TOKEN_S // 2} s")
        self._producing = producing
        self.limit_s = max(retry_for_s, store_timeout_s)
        self._last_try_s = self.limit_s - retry_for_s
        self._calls = Calls()
        self._stopped = asyncio.Event()

    def stop(self) -> None:
        """Retry nothing from now on. A call that pauses before a retry has that one, at once."""
        self._stopped.set()

    def by(self) -> float:
        """When a call that begins now must be over."""
        return asyncio.get_running_loop().time() + self.limit_s

    async def close(self) -> None:
        """End the calls that are under way, with a RuntimeError, and begin no more."""
        await self._calls.close()

    async def accept_once(self, submissions: Sequence[Submission], by: float) -> list[Accepted | Known | Problem]:
        """Submit up to ``SCRIPT_LIMIT`` requests, through outages; refusals are answers."""
        batch = SubmissionBatch(submissions)
        async with self._calls.limit(by):
            return await self._through_outages(lambda: self._producing.send(batch), by)

    async def accept(
        self, submissions: Sequence[Submission], after: Awaitable[object] | None = None
    ) -> list[Accepted | Known | Problem]:
        """Submit up to ``SCRIPT_LIMIT`` requests, through outages; those refused for a while only are sent again.

        They are packed at once, and sent when ``after`` is done: their time begins then.
        """
        batch = SubmissionBatch(submissions)
        if after is not None:
            with contextlib.suppress(StoreUnavailable):  # then it is packed when it is sent
                async with self._calls.limit(self.by()):
                    await self._producing.prepare(batch)
            await after
        by = self.by()
        async with self._calls.limit(by):
            answers = await self._through_outages(lambda: self._producing.send(batch), by)
        problems = [answer for answer in answers if isinstance(answer, Problem)]
        if any(map(refused, problems)) and self._left_s(by) > LAST_S:
            await self._accept_refused(submissions, answers, by)
        return answers

    async def _accept_refused(
        self, submissions: Sequence[Submission], answers: list[Accepted | Known | Problem], by: float
    ) -> None:
        """Send those again that were refused for a while; puts what becomes of them into ``answers``."""
        sent: list[int] = []

        async def send() -> bool:
            sent[:] = [index for index, answer in enumerate(answers) if refused(answer)]
            batch = SubmissionBatch([submissions[index] for index in sent])
            for index, answer in zip(
                sent, await self._through_outages(lambda: self._producing.send(batch), by), strict=True
            ):
                answers[index] = answer
            sent.clear()
            return any(map(refused, answers))

        try:
            async with self._calls.limit(by):
                await self._again(send, by, next(filter(refused, answers)), retry_if_result(bool))
        except StoreUnavailable as outage:
            # What was accepted before stays accepted.
            for index in sent:
                answers[index] = outage

    async def after_refusal(self, refusal: Problem, accept: Callable[[], Awaitable[Result]], by: float) -> Result:
        """Call ``accept``, which was refused with ``refusal``, again until it is accepted, or refused for good."""
        if not refused(refusal) or self._left_s(by) < LAST_S:
            raise refusal
        return await self._again(accept, by, refusal, retry_if_exception(refused))

    async def read(
        self, request_ids: Sequence[bytes], by: float, callers: Sequence[Caller] | None = None
    ) -> list[Status | Problem]:
        """The statuses of requests, through outages. ``callers``: for whom each is read."""
        async with self._calls.limit(by):
            return await self._through_outages(lambda: self._producing.read(request_ids, callers), by)

    async def cancel(self, request_id: bytes, by: float, caller: Caller = STORE) -> Status:
        """Cancel a request, through outages: that it is cancelled already may be the work of an earlier try."""
        async with self._calls.limit(by):
            return await self._through_outages(lambda: self._producing.cancel(request_id, caller), by)

    async def releases(self, by: float, *, fresh: bool) -> ReleaseTable:
        """The releases; one try."""
        async with self._calls.limit(by):
            return await self._producing.releases(fresh=fresh)

    async def _through_outages(self, call: Callable[[], Awaitable[Result]], by: float) -> Result:
        try:
            return await call()
        except StoreUnavailable as outage:
            if self._left_s(by) < LAST_S:
                raise
            return await self._again(call, by, outage, retry_if_exception_type(StoreUnavailable))

    async def _again(
        self,
        call: Callable[[], Awaitable[Result]],
        by: float,
        first: object,
        retry: retry_if_exception | retry_if_result,
    ) -> Result:
        """Call again and again, with growing pauses and full jitter; the last outcome counts.

        The first pause is what the problem asks for at most. None takes more than half of the time that is left, so
        that a store that comes back late is found, too.
        """
        asked = (isinstance(first, Problem) and first.retry_after_s) or 1
        jitter = wait_random_exponential(multiplier=2 * asked, max=LONGEST_PAUSE_S)
        await self._pause(min(random.uniform(0, asked), self._left_s(by) / 2))  # noqa: S311
        retrying = AsyncRetrying(
            retry=retry,
            stop=lambda _: self._stopped.is_set() or self._left_s(by) < LAST_S,
            sleep=self._pause,
            wait=lambda state: max(0, min(jitter(state), self._left_s(by) / 2)),
            retry_error_callback=_last_outcome,
        )

        async def once() -> Result:  # tenacity awaits what it sees to be a coroutine function
            return await call()

        return await retrying(once)

    def _left_s(self, by: float) -> float:
        """For how long a call that must be over ``by`` then may be tried again."""
        return by - self._last_try_s - asyncio.get_running_loop().time()

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopped.wait()


def _last_outcome(state: RetryCallState) -> Any:
    assert state.outcome is not None
    return state.outcome.result()
