"""What stands in the ledger when everything has ended, and the repairs that are due before that is looked at."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from chaos.legend_check import breaches
from pipeline.ledger import keys
from pipeline.ledger.sweeper.repairs import Repairs
from pipeline.settings import Settings
from pipeline.store.connection import AsyncClient, connect

log = structlog.get_logger()
AGAIN_S = 1.0


async def leftovers(store: AsyncClient) -> list[str]:
    """What stands in the ledger although everything should have ended."""
    left = [f"{await store.zcard(keys.OPEN)} unfinished"] if await store.zcard(keys.OPEN) else []
    return left + await breaches(store, all_ended=True)


class Repairing:
    """The sweeper's repairs, from now on without its pauses.

    A sweeper that leads looks at a thousand keys a second: after a long run its walk would take a quarter of an hour.
    ``repaired``: what there was to repair.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._over = asyncio.Event()
        self._task = asyncio.create_task(self._walk())
        self.repaired: list[str] = []

    async def _walk(self) -> None:
        repairs = Repairs(connect(self._settings), self._settings)
        while not self._over.is_set():
            await asyncio.to_thread(repairs.scrub)
            if repairs.has_seen_all:
                await asyncio.sleep(AGAIN_S)

    async def until_clean(self, look: Callable[[], Awaitable[list[str]]], seconds: float) -> list[str]:
        """Look until nothing is left, for up to so long; what is."""
        ends_at = time.monotonic() + seconds
        while (left := await look()) and time.monotonic() < ends_at:
            if self._task.done():
                break  # it has failed
            self.repaired += [each for each in left if each not in self.repaired]
            await asyncio.sleep(AGAIN_S)
        self._over.set()
        await self._task
        return left
