"""Calls that share round trips: who has gone before the next one begins is not part of it; each has its time."""

import asyncio
from collections.abc import Sequence

import pytest

from pipeline.client import AsyncScoringClient, patience
from pipeline.client.coalescing import Gathering
from pipeline.contracts.problems import Overloaded, StoreUnavailable
from pipeline.ledger.producers.submissions import Known
from pipeline.settings import read_settings


class Held:
    """A round trip that takes until it is released, and what has been sent so."""

    def __init__(self) -> None:
        self.sent: list[list[int]] = []
        self.under_way, self.release = asyncio.Event(), asyncio.Event()

    async def send(self, items: Sequence[int], by: float) -> list[int]:
        self.sent.append(list(items))
        self.under_way.set()
        await self.release.wait()
        return list(items)


def test_a_call_that_was_given_up_while_it_queued_is_never_sent() -> None:
    async def check() -> list[list[int]]:
        held = Held()
        gathering: Gathering[int, int] = Gathering(held.send, 10)
        by = asyncio.get_running_loop().time() + 60
        first = asyncio.create_task(gathering(1, by))
        await held.under_way.wait()
        given_up, kept = asyncio.create_task(gathering(2, by)), asyncio.create_task(gathering(3, by))
        await asyncio.sleep(0)  # both have begun to queue
        given_up.cancel()
        await asyncio.gather(given_up, return_exceptions=True)
        held.release.set()
        assert await asyncio.gather(first, kept) == [1, 3]
        return held.sent

    assert asyncio.run(check()) == [[1], [3]]


def test_calls_that_have_no_answer_by_their_time_are_told_so_and_what_queued_is_never_sent() -> None:
    async def check() -> list[list[int]]:
        held = Held()
        gathering: Gathering[int, int] = Gathering(held.send, 10)
        now = asyncio.get_running_loop().time()
        first = asyncio.create_task(gathering(1, now + 0.05))
        await held.under_way.wait()
        queued, patient = asyncio.create_task(gathering(2, now + 0.05)), asyncio.create_task(gathering(3, now + 60))
        outcomes = await asyncio.gather(first, queued, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [StoreUnavailable, StoreUnavailable]
        held.release.set()
        assert await patient == 3
        return held.sent

    assert asyncio.run(check()) == [[1], [3]]


def test_while_a_call_has_waited_for_too_long_others_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "BEHIND_S", 0.0)

    async def check() -> None:
        held = Held()
        gathering: Gathering[int, int] = Gathering(held.send, 10)
        by = asyncio.get_running_loop().time() + 60
        first = asyncio.create_task(gathering(1, by))
        await held.under_way.wait()
        with pytest.raises(Overloaded):
            await gathering(2, by, shed=True)
        patient = asyncio.create_task(gathering(3, by))
        held.release.set()
        assert await first == 1
        assert await patient == 3
        assert await gathering(4, by, shed=True) == 4

    asyncio.run(check())


def test_a_shed_look_at_what_was_accepted_does_not_say_that_nothing_was_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "BEHIND_S", -1)

    async def check() -> None:
        held = Held()
        client = AsyncScoringClient(settings=read_settings({}))
        client._here().read = Gathering(held.send, 10)  # type: ignore[arg-type]
        by = asyncio.get_running_loop().time() + 60
        first = asyncio.create_task(client.status_of(Known(bytes(16)), by=by))
        await held.under_way.wait()
        with pytest.raises(StoreUnavailable, match="is accepted"):
            await client.status_of(Known(bytes([1]) * 16), by=by)
        held.release.set()
        await first
        await client.close()

    asyncio.run(check())
