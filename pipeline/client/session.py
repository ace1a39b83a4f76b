"""Sessions: what a client has open in one event loop of one process."""

import asyncio
import contextlib
import math
from collections.abc import Sequence

from pipeline.breakers.calls import Breakers
from pipeline.client.coalescing import Gathering
from pipeline.client.retrying import Retrying
from pipeline.contracts.problems import Problem
from pipeline.contracts.status import Status
from pipeline.contracts.tenants import Caller
from pipeline.ledger import keys
from pipeline.ledger.producers.accept import Producing
from pipeline.ledger.producers.notifications import Notifications
from pipeline.ledger.producers.submissions import Accepted, Known, Submission
from pipeline.settings import Settings
from pipeline.store.connection import connect_async

READ_LIMIT = 512


class Session:
    """Connections, shared round trips, and the channel of ends. Opens nothing before it is used."""

    def __init__(self, settings: Settings, retry_for_s: float, breakers: Breakers | None) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        """Where it is used; None before that."""
        self.store = connect_async(settings)
        self.producing = Producing(self.store, settings, breakers)
        self.retrying = Retrying(self.producing, retry_for_s, settings.store_timeout_s)
        self.notifications = Notifications(self.store)
        self.accept: Gathering[Submission, Accepted | Known]
        self.accept = Gathering(self.retrying.accept_once, keys.SCRIPT_LIMIT)
        self.read: Gathering[tuple[bytes, Caller], Status] = Gathering(self._read, READ_LIMIT)

    async def _read(self, asked: Sequence[tuple[bytes, Caller]], by: float) -> list[Status | Problem]:
        request_ids, callers = zip(*asked, strict=True)
        return await self.retrying.read(request_ids, by, callers)

    def loop_time(self) -> float:
        """The event loop's time."""
        assert self.loop is not None
        return self.loop.time()

    def by(self, latest: float = math.inf) -> float:
        """When a call that begins now must be over."""
        by = self.loop.time() + self.retrying.limit_s  # type: ignore[union-attr]
        return by if by < latest else latest

    def let_go(self) -> None:
        """Close it soon; from any thread."""
        assert self.loop is not None
        with contextlib.suppress(RuntimeError):  # the event loop is closed, and with it all that it had open
            self.loop.call_soon_threadsafe(self._close_soon, self.loop)

    def _close_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        self._closing = loop.create_task(self.close())

    async def close(self) -> None:
        """End the calls that are under way, with a RuntimeError, and close the connections."""
        await self.accept.close()
        await self.read.close()
        await self.retrying.close()
        await self.notifications.stop()
        await self.producing.close()
        await self.store.aclose()
