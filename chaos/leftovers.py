"""What is left in the ledger when everything has ended, and the repairs that are due before that is read."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from pipeline.ledger import keys
from pipeline.ledger.sweeper.repairs import Repairs
from pipeline.settings import Settings
from pipeline.store.connection import AsyncClient, connect

log = structlog.get_logger()
WORK = ("q:", "c:", "m:", "e:", "i:", "o:", "joined", "fanout", "later", "attempts")
"""Keys that only unfinished work has."""
_PAGE = 1000
_WITHOUT_TTL = """
local page = redis.call('SCAN', ARGV[1], 'MATCH', ARGV[2] .. '*:*', 'COUNT', ARGV[3])
local found = {}
for _, key in ipairs(page[2]) do
  local kind = string.match(string.sub(key, #ARGV[2] + 1), '^(%l+):')
  if kind and string.find(' r k f a d dm wake idle kept again ', ' ' .. kind .. ' ', 1, true)
    and redis.call('PTTL', key) == -1 then found[#found + 1] = key end
end
return { page[1], found }
"""
"""Of one page of keys, those that must have a TTL by now (see the legend in keys.py) and have none."""
AGAIN_S = 1.0


async def leftovers(store: AsyncClient) -> list[str]:
    """Returns what is left in the ledger although everything should have ended."""
    left = [f"{await store.zcard(keys.OPEN)} unfinished"] if await store.zcard(keys.OPEN) else []
    for kind in WORK:
        left += [key.decode(errors="replace") async for key in store.scan_iter(f"{keys.TAG}{kind}*", count=_PAGE)]
    cursor = b"0"
    while True:
        cursor, found = await store.eval(_WITHOUT_TTL, 0, cursor, keys.TAG, _PAGE)
        left += [f"{key.decode(errors='replace')} without a TTL" for key in found]
        if cursor == b"0":
            return left


class Repairing:
    """Runs the sweeper's repairs without its pauses.

    A leading sweeper checks a thousand keys a second: after a long run that would take a quarter of an hour.
    ``repaired``: what had to be repaired.
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
        """Checks until nothing is left, for up to ``seconds``; returns what is left."""
        ends_at = time.monotonic() + seconds
        while (left := await look()) and time.monotonic() < ends_at:
            if self._task.done():
                break  # it has failed
            self.repaired += [each for each in left if each not in self.repaired]
            await asyncio.sleep(AGAIN_S)
        self._over.set()
        await self._task
        return left
