"""An open loop: requests arrive at their own times, whether or not those before have been answered."""

import asyncio
import math
import random
import time
from collections import Counter
from collections.abc import Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from pipeline.client.core import has_ended
from pipeline.contracts.problems import Gone, NotFound
from pipeline.contracts.status import Status
from pipeline.service.cancellation import abandon

WAITERS = 512
"""So many requests are waited for at once, the oldest first; the others are read when their turn comes."""
UNFINISHED_LIMIT = 100_000
"""At most so many unfinished requests; arrivals beyond that are held back, and reported."""
GRACE_S = 5.0
"""By so much after its deadline at most the sweeper ends a request."""
PAUSE_S = 0.5
"""Between two reads of a request that has not ended in its wait; and until an interruption is noticed."""
LOST = (NotFound.slug, Gone.slug)


@dataclass(frozen=True, slots=True)
class Refused:
    """A call that was not answered with a status."""

    slug: str
    detail: str


class Target(Protocol):
    """Takes the load."""

    async def submit(self, features: Mapping[str, Any]) -> Status | Refused:
        """Submit one request, once."""

    async def end(self, status: Status, seconds: float) -> Status | Refused:
        """The request's status once it has ended, or as it is after so many seconds."""


class Times:
    """Percentiles of any number of durations, in bounded memory: one counter for each percent of length."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self._longest = 0.0

    def add(self, seconds: float) -> None:
        """Count one duration."""
        self._counts[math.ceil(100 * math.log(max(seconds, 1e-6)))] += 1
        self._longest = max(self._longest, seconds)

    def milliseconds(self) -> dict[str, float | None]:
        """Median, 99th percentile and maximum; None where nothing was counted."""
        if not self._counts:
            return {"p50": None, "p99": None, "max": None}
        shares = {"p50": self._at(0.5), "p99": self._at(0.99), "max": self._longest}
        return {name: round(seconds * 1000, 2) for name, seconds in shares.items()}

    def _at(self, share: float) -> float:
        left = share * self._counts.total()
        for bucket, count in sorted(self._counts.items()):
            left -= count
            if left <= 0:
                return min(math.exp(bucket / 100), self._longest)
        return self._longest


@dataclass
class Tally:
    """The outcomes of the load. ``in_time``: ended within the deadline; ``good``: succeeded within it.

    ``latency`` is by the documents' own times, submit to end; ``seen`` from the scheduled arrival until this process
    knew of the end; ``lag`` from the scheduled arrival to the send.
    """

    offered: int = 0
    held_back: int = 0
    accepted: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    in_time: int = 0
    good: int = 0
    latency: Times = field(default_factory=Times)
    seen: Times = field(default_factory=Times)
    lag: Times = field(default_factory=Times)
    seconds: float = 0.0

    @property
    def unfinished(self) -> int:
        """How many accepted requests have neither ended nor been lost, as far as is known."""
        return self.accepted - self.ended.total() - self.lost


@dataclass(frozen=True, slots=True)
class _Waited:
    status: Status
    arrived: float
    until: float


class LoadGenerator:
    """Submits rows to a target at a rate, with Poisson arrivals, and follows each accepted request to its end."""

    def __init__(
        self, target: Target, rows: Iterator[Mapping[str, Any]], *, rate: float, timeout_s: float, seed: int
    ) -> None:
        self._target = target
        self._rows = rows
        self._rate = rate
        self._timeout_s = timeout_s
        self._rng = random.Random(seed)  # noqa: S311 - arrivals, not a secret
        self._accepted: asyncio.Queue[_Waited] = asyncio.Queue()
        self._calls: set[asyncio.Task[None]] = set()
        self._errors: list[BaseException] = []
        self._idle = asyncio.Event()
        self._busy = 0
        self._stopping = asyncio.Event()
        self._leaving = asyncio.Event()
        self.tally = Tally()

    @property
    def interrupted(self) -> bool:
        """Whether ``stop`` was called."""
        return self._stopping.is_set()

    def stop(self) -> None:
        """Submit nothing more, and wait for what was accepted; called again, do not wait for it either."""
        (self._leaving if self.interrupted else self._stopping).set()

    async def run(self, seconds: float) -> Tally:
        """Submit for so many seconds, and return when everything accepted has ended, or should have."""
        began = time.monotonic()
        for _ in range(WAITERS):
            self._start(self._follow())
        going = asyncio.create_task(self._until_ended(began, began + seconds))
        leaving = asyncio.create_task(self._leaving.wait())
        try:
            await asyncio.wait({going, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await abandon(going, leaving, *self._calls)
        if not going.cancelled():
            going.result()
        for error in self._errors:
            raise error
        self.tally.seconds = time.monotonic() - began
        return self.tally

    def _start(self, call: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(call)
        self._calls.add(task)  # the event loop itself keeps no reference
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._calls.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._errors.append(error)
            self._leaving.set()

    async def _until_ended(self, began: float, until: float) -> None:
        await self._offer(began, until)
        while self._busy:
            self._idle.clear()
            await self._idle.wait()

    async def _offer(self, began: float, until: float) -> None:
        due = began + self._rng.expovariate(self._rate)
        while due < until and not self.interrupted:
            if (early := due - time.monotonic()) > 0:
                await asyncio.sleep(min(early, PAUSE_S))
                continue
            self.tally.offered += 1
            if self._busy >= UNFINISHED_LIMIT:
                self.tally.held_back += 1
            else:
                self._busy += 1
                self._start(self._submit(next(self._rows), due))
            due += self._rng.expovariate(self._rate)
            if not self.tally.offered % 64:
                await asyncio.sleep(0)  # when late: let the calls start

    async def _submit(self, features: Mapping[str, Any], due: float) -> None:
        self.tally.lag.add(time.monotonic() - due)
        answer = await self._target.submit(features)
        if isinstance(answer, Refused):
            self.tally.refused[answer.slug] += 1
            self._done()
            return
        self.tally.accepted += 1
        if has_ended(answer):
            self._end(answer, due)
            return
        self._accepted.put_nowait(_Waited(answer, due, time.monotonic() + self._timeout_s + GRACE_S))

    async def _follow(self) -> None:
        while True:
            one = await self._accepted.get()
            while True:
                answer = await self._target.end(one.status, one.until - time.monotonic())
                if isinstance(answer, Refused):
                    if answer.slug in LOST:
                        self.tally.lost += 1
                        self._done()
                        break
                elif has_ended(answer):
                    self._end(answer, one.arrived)
                    break
                if time.monotonic() > one.until:
                    self._done()
                    break
                await asyncio.sleep(PAUSE_S)  # an outage, or too many calls wait at the API

    def _end(self, status: Status, arrived: float) -> None:
        assert status["finished_at"] is not None
        took = datetime.fromisoformat(status["finished_at"]) - datetime.fromisoformat(status["submitted_at"])
        in_time = took.total_seconds() <= self._timeout_s
        self.tally.ended[status["state"]] += 1
        self.tally.in_time += in_time
        self.tally.good += in_time and status["state"] == "succeeded"
        self.tally.latency.add(took.total_seconds())
        self.tally.seen.add(time.monotonic() - arrived)
        self._done()

    def _done(self) -> None:
        self._busy -= 1
        if not self._busy:
            self._idle.set()
