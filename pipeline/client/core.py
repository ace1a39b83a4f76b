"""What the clients and the API share: the connections of one event loop, and the calls that they carry.

An accept or a read passes these steps, and no others:

1. ``Core.accept``, ``Core.read``  what is meant: one request, for one caller, answered in time
2. ``Coalescer``                   calls that arrive during a round trip share the next one
3. ``Retrying``                    a time limit, and outages of the store outlasted
4. ``Producing``                   the ledger's side: packs a batch, runs the script, unpacks the answers

Clients and API drive a ``Core`` alike. A client has one for each event loop that it is used in; the API has one, tries
nothing again (``retry_for_s=0``: its callers can) and sheds load (``shed``).
"""

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Self

from pipeline.breakers.calls import Breakers
from pipeline.client.coalescing import Coalescer
from pipeline.client.retrying import Retrying
from pipeline.contracts.envelope import ScoreRequest
from pipeline.contracts.ids import to_text
from pipeline.contracts.problems import Overloaded, Problem, StoreUnavailable
from pipeline.contracts.releases import ReleaseTable
from pipeline.contracts.stages import FINAL_STATES
from pipeline.contracts.status import Status
from pipeline.contracts.tenants import NAMELESS, STORE, Caller, Tenant
from pipeline.ledger import keys
from pipeline.ledger.producers.accept import Producing
from pipeline.ledger.producers.notifications import Notifications
from pipeline.ledger.producers.submissions import Accepted, Known, Submission, submission_of
from pipeline.settings import Settings
from pipeline.store.connection import connect_async

__all__ = ["READ_LIMIT", "Accepted", "Answer", "Core", "Known", "has_ended", "statuses_for"]

READ_LIMIT = 512
"""At most so many requests are read in one round trip."""
Answer = Accepted | Known | Problem
"""To one request of several: it is in the ledger now, it was there already, or why it is not."""


def has_ended(status: Status) -> bool:
    """Whether the status is final: it will not change any more, except by a replay."""
    return status["state"] in FINAL_STATES


def statuses_for(answers: Iterable[Answer], found: Mapping[bytes, Status | Problem]) -> list[Status | Problem]:
    """The status or problem of each answer: what ``found`` has under its id, or the status of one just accepted."""
    return [
        answer if isinstance(answer, Problem) else found.get(answer.id) or answer.status()  # type: ignore[union-attr]
        for answer in answers
    ]


class Core:
    """Connections, shared round trips and notifications of one event loop. Opens nothing before its first call.

    ``by``, in all methods: when a call must be over (the event loop's time), else StoreUnavailable; without it the
    call has ``retry_for_s``. ``shed``: calls that clearly would not be answered in time are Overloaded at once.
    ``caller``: for whom a request is read or cancelled; one that it must not see is NotFound.
    """

    def __init__(
        self, settings: Settings, *, retry_for_s: float, breakers: Breakers | None = None, shed: bool = False
    ) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        """The event loop that it is used in; None before its first use."""
        self.store = connect_async(settings)
        self._producing = Producing(self.store, settings, breakers)
        self.retrying = Retrying(self._producing, retry_for_s, settings.store_timeout_s)
        self.notifications = Notifications(self.store)
        self._shed = shed
        self._accepting: Coalescer[Submission, Accepted | Known]
        self._accepting = Coalescer(self.retrying.accept_once, keys.SCRIPT_LIMIT)
        self._reading: Coalescer[tuple[bytes, Caller], Status] = Coalescer(self._read_batch, READ_LIMIT)

    async def __aenter__(self) -> Self:
        self.loop = asyncio.get_running_loop()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def time(self) -> float:
        """The event loop's time."""
        return self.loop.time()  # type: ignore[union-attr]

    def by(self, latest: float = math.inf) -> float:
        """When a call that begins now must be over, ``latest`` at most."""
        by = self.loop.time() + self.retrying.limit_s  # type: ignore[union-attr]
        return by if by < latest else latest

    async def accept(
        self,
        request: ScoreRequest,
        key: str | None = None,
        *,
        tenant: Tenant = NAMELESS,
        no_cache: bool = False,
        by: float | None = None,
    ) -> Accepted | Known:
        """Submit a checked request of ``tenant``; raises the problem that it is refused for."""
        submission, by = submission_of(request, key, tenant, no_cache=no_cache), by or self.by()
        try:
            return await self._accepting(submission, by, shed=self._shed)
        except Problem as refusal:
            again = partial(self._accepting, submission, by, shed=self._shed)
            return await self.retrying.after_refusal(refusal, again, by)

    async def status_of(self, accepted: Accepted | Known, *, caller: Caller = STORE, by: float | None = None) -> Status:
        """The status of what was just accepted: of a known request as it is read now."""
        if isinstance(accepted, Accepted):
            return accepted.status()
        try:
            return await self.read(accepted.id, caller=caller, by=by)
        except Overloaded as error:  # it concerns the read alone: to a producer it would say that nothing was accepted
            raise StoreUnavailable(f"{to_text(accepted.id)} is accepted, but could not be read: {error}") from None

    def read(self, request_id: bytes, *, caller: Caller = STORE, by: float | None = None) -> Awaitable[Status]:
        """The status of a request; NotFound, Gone."""
        return self._reading((request_id, caller), by or self.by(), shed=self._shed)

    async def _read_batch(self, asked: Sequence[tuple[bytes, Caller]], by: float) -> list[Status | Problem]:
        request_ids, callers = zip(*asked, strict=True)
        return await self.retrying.read(request_ids, by, callers)

    async def statuses_of_known(
        self, answers: Iterable[Answer], caller: Caller = STORE
    ) -> dict[bytes, Status | Problem]:
        """The statuses, by id, of those requests that were known already; one round trip."""
        known = [answer.id for answer in answers if isinstance(answer, Known)]
        if not known:
            return {}
        return dict(zip(known, await self.retrying.read(known, self.by(), [caller] * len(known)), strict=True))

    async def cancel(self, request_id: bytes, *, caller: Caller = STORE) -> Status:
        """End a request that scoring has not claimed; NotFound, Gone, AlreadyEnded, TooLate."""
        return await self.retrying.cancel(request_id, self.by(), caller)

    async def releases(self, *, fresh: bool = True) -> ReleaseTable:
        """The releases; with ``fresh`` read now, else as this process knows them."""
        return await self.retrying.releases(self.by(), fresh=fresh)

    def listen(self) -> None:
        """Subscribe to the ends of requests. Waiting does so by itself; done before, the first wait saves a read."""
        self.notifications.start()

    def stop_retrying(self) -> None:
        """Retry nothing from now on: calls under way come to their end, whatever it is."""
        self.retrying.stop()

    def close_soon(self) -> None:
        """Have its event loop close it; from any thread."""
        assert self.loop is not None
        with contextlib.suppress(RuntimeError):  # the event loop is closed, and with it all that it had open
            self.loop.call_soon_threadsafe(self._start_closing, self.loop)

    def _start_closing(self, loop: asyncio.AbstractEventLoop) -> None:
        self._closing = loop.create_task(self.close())

    async def close(self) -> None:
        """End the calls that are under way, with a RuntimeError, and close the connections."""
        await self._accepting.close()
        await self._reading.close()
        await self.retrying.close()
        await self.notifications.stop()
        await self._producing.close()
        await self.store.aclose()
