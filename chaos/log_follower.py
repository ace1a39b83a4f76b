"""Follows the ledger's log while the run goes on, so that nothing of it has to be kept twice."""

import asyncio
import contextlib

from redis.exceptions import RedisError

from chaos.checker import Claims, Commit
from chaos.events import PAGE, Ended, event_of
from chaos.recovery import Log
from pipeline.contracts.ids import to_text
from pipeline.ledger import keys
from pipeline.ledger.records import End, unpack_entry
from pipeline.store.connection import AsyncClient

LOOK_S = 0.1


class LogFollower:
    """Reads the ledger's log into what recoveries, the checker and the report need."""

    def __init__(self, store: AsyncClient) -> None:
        self._store = store
        self._after = b"-"
        self.log = Log()
        self.claims = Claims()
        self.commits: list[Commit] = []

    async def follow(self) -> None:
        """Reads until cancelled, through outages of the store."""
        while True:
            with contextlib.suppress(RedisError, OSError):
                await self.catch_up()
            await asyncio.sleep(LOOK_S)

    async def catch_up(self) -> None:
        """Reads to the end of the log."""
        while page := await self._store.xrange(keys.EVENTS, self._after, count=PAGE):
            for entry_id, entry in page:
                self._add(entry_id, entry)
            self._after = b"(" + page[-1][0]

    def _add(self, entry_id: bytes, entry: dict[bytes, bytes]) -> None:
        event = event_of(entry_id, entry)
        self.log.add(event)
        self.claims.add(event)
        if isinstance(event, Ended):
            for request_id, blob in event.records.items():
                record = unpack_entry(blob)
                end = End(*record.body)
                ids = to_text(request_id), record.header.generation, record.links.key[:16]
                self.commits.append(Commit(*ids, record.kind, end.result, end.scored_by, end.error))
