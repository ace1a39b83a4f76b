"""Calls that share round trips: a call that is gone before the next one begins is not sent; each has its deadline."""

import asyncio
from collections.abc import Sequence

import pytest

from pipeline.client import deadlines
from pipeline.client.coalescing import Coalescer
from pipeline.client.core import Core
from pipeline.contracts.problems import Overloaded, StoreUnavailable
from pipeline.ledger.producers.submissions import Known
from pipeline.settings import read_settings


class Held:
    """A round trip that lasts until it is released, and what it has sent."""

    def __init__(self) -> None:
        self.sent: list[list[int]] = []
        self.under_way, self.release = asyncio.Event(), asyncio.Event()

    async def send(self, items: Sequence[int], by: float) -> list[int]:
        self.sent.append(list(items))
        self.under_way.set()
        await self.release.wait()
        return list(items)


def test_a_call_that_is_cancelled_while_it_queues_is_never_sent() -> None:
    async def check() -> list[list[int]]:
        held = Held()
        coalescer: Coalescer[int, int] = Coalescer(held.send, 10)
        by = asyncio.get_running_loop().time() + 60
        first = asyncio.create_task(coalescer(1, by))
        await held.under_way.wait()
        cancelled, kept = asyncio.create_task(coalescer(2, by)), asyncio.create_task(coalescer(3, by))
        await asyncio.sleep(0)  # both have begun to queue
        cancelled.cancel()
        await asyncio.gather(cancelled, return_exceptions=True)
        held.release.set()
        assert await asyncio.gather(first, kept) == [1, 3]
        return held.sent

    assert asyncio.run(check()) == [[1], [3]]


def test_calls_without_an_answer_at_their_deadline_raise_and_those_that_queued_are_never_sent() -> None:
    async def check() -> list[list[int]]:
        held = Held()
        coalescer: Coalescer[int, int] = Coalescer(held.send, 10)
        now = asyncio.get_running_loop().time()
        first = asyncio.create_task(coalescer(1, now + 0.05))
        await held.under_way.wait()
        queued, later = asyncio.create_task(coalescer(2, now + 0.05)), asyncio.create_task(coalescer(3, now + 60))
        outcomes = await asyncio.gather(first, queued, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [StoreUnavailable, StoreUnavailable]
        held.release.set()
        assert await later == 3
        return held.sent

    assert asyncio.run(check()) == [[1], [3]]


def test_while_a_call_has_waited_for_too_long_new_ones_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadlines, "BEHIND_S", 0.0)

    async def check() -> None:
        held = Held()
        coalescer: Coalescer[int, int] = Coalescer(held.send, 10)
        by = asyncio.get_running_loop().time() + 60
        first = asyncio.create_task(coalescer(1, by))
        await held.under_way.wait()
        with pytest.raises(Overloaded):
            await coalescer(2, by, shed=True)
        later = asyncio.create_task(coalescer(3, by))
        held.release.set()
        assert await first == 1
        assert await later == 3
        assert await coalescer(4, by, shed=True) == 4

    asyncio.run(check())


def test_a_shed_read_of_an_accepted_request_does_not_say_that_nothing_was_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadlines, "BEHIND_S", -1)

    async def check() -> None:
        held = Held()
        async with Core(read_settings({}), retry_for_s=0, shed=True) as core:
            core._reading = Coalescer(held.send, 10)  # type: ignore[arg-type]
            by = core.time() + 60
            first = asyncio.create_task(core.status_of(Known(bytes(16)), by=by))
            await held.under_way.wait()
            with pytest.raises(StoreUnavailable, match="is accepted"):
                await core.status_of(Known(bytes([1]) * 16), by=by)
            held.release.set()
            await first

    asyncio.run(check())
