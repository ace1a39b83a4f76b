"""Calls that share round trips: who has gone before the next one begins is not part of it."""

import asyncio
from collections.abc import Sequence

from pipeline.client.gathering import Gathering


def test_a_call_that_was_given_up_while_it_queued_is_never_sent() -> None:
    async def check() -> list[list[int]]:
        sent: list[list[int]] = []
        under_way, release = asyncio.Event(), asyncio.Event()

        async def send(items: Sequence[int]) -> list[int]:
            sent.append(list(items))
            under_way.set()
            await release.wait()
            return list(items)

        gathering: Gathering[int, int] = Gathering(send, 10)
        first = asyncio.create_task(gathering(1))
        await under_way.wait()
        given_up, kept = asyncio.create_task(gathering(2)), asyncio.create_task(gathering(3))
        await asyncio.sleep(0)  # both have begun to queue
        given_up.cancel()
        await asyncio.gather(given_up, return_exceptions=True)
        release.set()
        assert await asyncio.gather(first, kept) == [1, 3]
        return sent

    assert asyncio.run(check()) == [[1], [3]]
