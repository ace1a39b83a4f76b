"""The asynchronous client: submit, read and wait, with round trips shared by all tasks of the event loop."""

import asyncio
import contextlib
import math
import sys
import threading
import warnings
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Collection, Iterable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self

from pipeline.breakers.calls import Breakers
from pipeline.client import forks
from pipeline.client.core import Answer, has_ended, told
from pipeline.client.input_chunks import SourceFailed, chunks_of
from pipeline.client.limits import CLOSED
from pipeline.client.retrying import Retrying
from pipeline.client.session import READ_LIMIT, Session
from pipeline.contracts.envelope import (
    DEFAULT_TIMEOUT_S,
    PriorityName,
    ScoreRequest,
    ScoreRow,
    check_envelope,
    check_key,
    check_row,
)
from pipeline.contracts.ids import from_text, to_text
from pipeline.contracts.problems import InvalidRequest, Overloaded, Problem, StoreUnavailable
from pipeline.contracts.releases import ReleaseTable
from pipeline.contracts.stages import Priority
from pipeline.contracts.status import Status
from pipeline.contracts.tenants import NAMELESS, STORE, Caller, Tenant
from pipeline.ledger import keys
from pipeline.ledger.producers.notifications import looks
from pipeline.ledger.producers.submissions import Accepted, Known, Submission, idempotency
from pipeline.ledger.records import status_of, tenant_of, unpack_entry
from pipeline.service.cancellation import abandon
from pipeline.settings import Settings, read_settings
from pipeline.store.connection import AsyncClient

Request = ScoreRequest | Mapping[str, Any]
LATE_S = 0.5
"""By so much a last look may overrun the time that a caller waits for an end."""
SWEEP_S = 5.0
"""Within so long after its deadline the sweeper ends a request."""


class AsyncScoringClient:
    """Speaks to the store directly. One client serves any number of tasks of one event loop.

    Every method raises a ``Problem`` (``pipeline.contracts.problems``). What passes - an outage of the store, a refusal
    because too much waits - is tried again for up to ``retry_for_s``; cancel the call to end that earlier. A request
    that was sent several times is accepted once. If StoreUnavailable is raised in the end, what was sent may or may not
    have been accepted: send it with an ``idempotency_key`` to be able to ask again.

    ``retry_for_s`` is the time of a whole call, however the store behaves; with less than the setting
    ``store_timeout_s``, one try may take that. In calls that read or stream many requests, each round trip has it.

    It starts again in a forked process, and in another event loop once the one before is closed. RuntimeError in an
    event loop beside one that is open, and after ``close``.
    """

    def __init__(
        self,
        store_url: str | None = None,
        *,
        settings: Settings | None = None,
        retry_for_s: float = 30.0,
        breakers: Breakers | None = None,
    ) -> None:
        settings = settings or read_settings()
        if store_url is not None:
            settings = settings.model_copy(update={"store_url": store_url})
        self._make = partial(Session, settings, retry_for_s, breakers)
        self._session: Session | None = self._make()
        self._closed = False
        self._lock = threading.Lock()
        forks.watch(self, AsyncScoringClient._start_after_fork)

    async def __aenter__(self) -> Self:
        self._here()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def store(self) -> AsyncClient:
        """The connections, for the running event loop."""
        return self._here().store

    def _here(self) -> Session:
        """What is open in the running event loop."""
        session, loop = self._session, asyncio.get_running_loop()
        return session if session is not None and session.loop is loop else self._begin(loop)

    def _begin(self, loop: asyncio.AbstractEventLoop) -> Session:
        with self._lock:
            if self._closed:
                raise RuntimeError(CLOSED)
            session = self._session
            if session is None or (session.loop is not None and session.loop.is_closed()):
                session = self._session = self._make()
            elif session.loop is not None:
                raise RuntimeError(
                    "this client serves another event loop, which is still open: make an AsyncScoringClient for each "
                    "event loop, or one ScoringClient for all threads"
                )
            session.loop = loop
            return session

    def _start_after_fork(self) -> object:
        """In a forked process: leave to the parent what it has open."""
        left, self._session, self._lock = self._session, None, threading.Lock()
        return left

    def __del__(self) -> None:
        session: Session | None = getattr(self, "_session", None)
        if session is not None and session.loop is not None and not sys.is_finalizing():
            warnings.warn(f"{self!r} was not closed", ResourceWarning, stacklevel=2, source=self)
            session.let_go()

    async def close(self) -> None:
        """Close the connections. Calls under way end with a RuntimeError, as do later ones."""
        with self._lock:
            session = self._session
            if session is not None and session.loop is not None and not session.loop.is_closed():
                if session.loop is not asyncio.get_running_loop():
                    raise RuntimeError("this client serves another event loop, which is still open: close it there")
            else:
                session = None  # what was open has gone with its event loop
            self._session, self._closed = None, True
        if session is not None:
            await session.close()

    def give_up(self) -> None:
        """Try nothing again from now on: calls under way come to their end, whatever it is."""
        self._here().retrying.give_up()

    async def submit(
        self,
        model: str,
        features: Mapping[str, Any],
        *,
        priority: PriorityName = "normal",
        timeout_s: float = DEFAULT_TIMEOUT_S,
        allow_degraded: bool = True,
        no_cache: bool = False,
        idempotency_key: str | None = None,
    ) -> Status:
        """Hand in one request; its status once it is accepted. Poll for the answer by its ``request_id``.

        It may have ended: what was computed lately is given again. ``no_cache``: compute it anew, for this call alone.

        With an ``idempotency_key`` that is known already: the status of the request that it stands for, ended or not;
        IdempotencyMismatch if that has another body.
        """
        document = {
            "model": model,
            "features": features,
            "priority": priority,
            "timeout_s": timeout_s,
            "allow_degraded": allow_degraded,
        }
        key = None if idempotency_key is None else check_key(idempotency_key)
        submission = _submission(check_envelope(document), key, NAMELESS, no_cache=no_cache)
        session = self._here()
        by = session.by()
        accepted = await _accept(session, submission, by)
        return accepted.status() if isinstance(accepted, Accepted) else await session.read((accepted.id, STORE), by)

    async def accept_request(
        self,
        request: ScoreRequest,
        key: str | None = None,
        *,
        tenant: Tenant = NAMELESS,
        no_cache: bool = False,
        by: float | None = None,
    ) -> Accepted | Known:
        """Hand in a checked request. ``tenant``: whose it is.

        ``by``: when the store must have answered (the event loop's time), here and in other methods: else
        StoreUnavailable, or Overloaded at once if it is clear that it will not.
        """
        submission, session = _submission(request, key, tenant, no_cache=no_cache), self._here()
        return await _accept(session, submission, by or session.by(), shed=by is not None)

    async def status_of(self, accepted: Accepted | Known, *, caller: Caller = STORE, by: float | None = None) -> Status:
        """The status of what was just accepted."""
        if isinstance(accepted, Accepted):
            return accepted.status()
        try:
            return await self._read(accepted.id, caller, by)
        except Overloaded as error:  # of the look alone: to the producer it would say that nothing was accepted
            raise StoreUnavailable(f"{to_text(accepted.id)} is accepted, but could not be read: {error}") from None

    async def _read(self, request_id: bytes, caller: Caller, by: float | None) -> Status:
        session = self._here()
        return await session.read((request_id, caller), by or session.by(), shed=by is not None)

    async def submit_many(
        self,
        requests: Iterable[Request] | AsyncIterable[Request],
        *,
        chunk: int = keys.SCRIPT_LIMIT,
        tenant: Tenant = NAMELESS,
    ) -> AsyncIterator[Status | Problem]:
        """Hand in any number of requests; for each, in order, its status or the problem it was refused for.

        A request is a document as ``POST /v1/scores/batch`` takes it; it may carry an ``idempotency_key``.
        Streams: a few chunks are held at a time, and the iterable is read no faster than the store accepts.
        What the iterable raises is raised here, after the answers to what it gave before.
        """
        try:
            async for answers in self.submit_chunks(chunks_of(requests, min(chunk, keys.SCRIPT_LIMIT)), tenant=tenant):
                for answer in answers:
                    yield answer
        except SourceFailed as failed:
            raise failed.error from None

    async def submit_chunks(
        self, chunks: AsyncGenerator[list[Request], None], *, tenant: Tenant = NAMELESS
    ) -> AsyncGenerator[list[Status | Problem], None]:
        """As ``submit_many``, a chunk of at most ``SCRIPT_LIMIT`` requests at a time."""
        async for answers in self.accept_chunks(chunks, tenant=tenant):
            yield told(answers, await self.standing(answers))

    async def standing(self, answers: Iterable[Answer], caller: Caller = STORE) -> dict[bytes, Status | Problem]:
        """How those requests stand by now that were known already, by id; one round trip."""
        known = [answer.id for answer in answers if isinstance(answer, Known)]
        if not known:
            return {}
        retrying = self._here().retrying
        return dict(zip(known, await retrying.read(known, retrying.by(), [caller] * len(known)), strict=True))

    async def accept_chunks(
        self, chunks: AsyncGenerator[list[Request], None], *, tenant: Tenant = NAMELESS
    ) -> AsyncGenerator[list[Answer], None]:
        """As ``submit_chunks``, with what the ledger has answered instead of status documents."""
        # The next chunk is read, checked and packed while the one before is in flight, and sent once that is accepted:
        # a stream's requests are accepted in its order. A source that has nothing yet keeps no answers back.
        retrying = self._here().retrying
        under_way: asyncio.Task[list[Answer]] | None = None
        started: asyncio.Task[list[Answer]] | None = None
        reading = asyncio.create_task(_next(chunks))
        failure: Exception | None = None
        try:
            while True:
                await asyncio.wait({reading, under_way or reading}, return_when=asyncio.FIRST_COMPLETED)
                if not reading.done():
                    assert under_way is not None
                    yield under_way.result()
                    under_way = None
                    continue
                try:
                    chunk = reading.result()
                except Exception as error:  # noqa: BLE001 - the caller's; raised after the answers
                    failure = error
                    break
                if chunk is None:
                    break
                reading = asyncio.create_task(_next(chunks))
                started = asyncio.create_task(_submit_chunk(retrying, chunk, under_way, tenant))
                await asyncio.sleep(0)  # pack it before the answers to the last one are handled
                if under_way is not None:
                    yield await under_way
                under_way = started
            if under_way is not None:
                yield await under_way
            if failure is not None:
                raise failure
        finally:
            await abandon(reading, under_way, started)
            await chunks.aclose()

    async def score_many(
        self, requests: Iterable[Request] | AsyncIterable[Request], *, window: int = 8192
    ) -> AsyncIterator[Status | Problem]:
        """Hand in any number of requests and wait for each end; in order, each as soon as those before it have ended.

        About ``window`` requests are unfinished at once, at most.
        """
        try:
            async for answers in self.score_chunks(chunks_of(requests, keys.SCRIPT_LIMIT), window=window):
                for answer in answers:
                    yield answer
        except SourceFailed as failed:
            raise failed.error from None

    async def score_chunks(
        self, chunks: AsyncGenerator[list[Request], None], *, window: int = 8192
    ) -> AsyncGenerator[list[Status | Problem], None]:
        """As ``score_many``, a chunk of at most ``SCRIPT_LIMIT`` requests at a time."""
        self.listen()
        accepted: asyncio.Queue[list[Answer] | None] = asyncio.Queue()
        room = asyncio.Semaphore(max(1, window // keys.SCRIPT_LIMIT))

        async def submit() -> None:
            async with contextlib.aclosing(self.accept_chunks(chunks)) as accepting:
                async for answers in accepting:
                    accepted.put_nowait(answers)
                    await room.acquire()

        submitting = asyncio.create_task(submit())
        submitting.add_done_callback(lambda _: accepted.put_nowait(None))  # however it ends
        try:
            while (answers := await accepted.get()) is not None:
                yield await self._finish(answers)
                room.release()
            await submitting
        finally:
            await abandon(submitting)

    async def _finish(self, answers: list[Answer]) -> list[Status | Problem]:
        """Wait until every accepted request of a chunk has ended; their ends in the places of their answers."""
        waiting = {answer.id for answer in answers if isinstance(answer, Accepted) and not answer.end}
        # What a key stood for may have ended long ago: nobody will announce it.
        known = {answer.id for answer in answers if isinstance(answer, Known)}
        return told(answers, await self._ends_of(waiting | known, math.inf, look_first=known))

    async def _ends_of(
        self,
        request_ids: Collection[bytes],
        until: float,
        *,
        look_first: Collection[bytes] = (),
        caller: Caller = STORE,
    ) -> dict[bytes, Status | Problem]:
        """The statuses of requests once all have ended, or as they stand ``until`` then (the event loop's time)."""
        session = self._here()
        retrying, notifications, time = session.retrying, session.notifications, asyncio.get_running_loop().time
        found: dict[bytes, Status | Problem] = {}
        missing = set(request_ids)

        async def look(ids: list[bytes]) -> None:
            by = min(retrying.by(), until + LATE_S)
            for request_id, status in zip(ids, await retrying.read(ids, by, [caller] * len(ids)), strict=True):
                found[request_id] = status
                if isinstance(status, Problem) or has_ended(status):
                    missing.discard(request_id)

        if look_first:
            await look(list(look_first))
        rely_s = looks()
        while missing:
            left, ids = until - time(), list(missing)
            if left <= 0:
                await look(ids)
                break
            for request_id, record in (await notifications.wait(ids, min(left, next(rely_s)))).items():
                if not caller.sees(tenant_of(record)):
                    continue
                found[request_id] = status_of(request_id, unpack_entry(record))
                missing.discard(request_id)
            notifications.forget(ids)
            if missing:
                await look(list(missing))
        return found

    async def get(self, request_id: str, *, caller: Caller = STORE, by: float | None = None) -> Status:
        """How a request stands; NotFound, Gone, InvalidRequest (malformed id).

        ``caller``: for whom, here and in other methods. What it must not see is answered as if it had never been.
        """
        return await self._read(_id(request_id), caller, by)

    async def get_many(self, request_ids: Sequence[str]) -> list[Status | Problem]:
        """How many requests stand, in order; NotFound or Gone in the place of those without a record."""
        ids = [_id(request_id) for request_id in request_ids]
        retrying = self._here().retrying
        answers: list[Status | Problem] = []
        for start in range(0, len(ids), READ_LIMIT):
            answers += await retrying.read(ids[start : start + READ_LIMIT], retrying.by())
        return answers

    async def cancel(self, request_id: str, *, caller: Caller = STORE) -> Status:
        """End a request that scoring has not begun; its status, also if it was cancelled before.

        NotFound, Gone, AlreadyEnded (otherwise), TooLate (it is being scored and will end by itself).
        """
        retrying = self._here().retrying
        return await retrying.cancel(_id(request_id), retrying.by(), caller)

    async def wait(self, request_id: str, timeout_s: float = 30.0) -> Status:
        """The status once the request has ended, or as it stands when ``timeout_s`` have passed.

        StoreUnavailable if the store does not tell by then.
        """
        request, session = _id(request_id), self._here()
        session.notifications.start()
        until = session.loop_time() + timeout_s
        status = await session.read((request, STORE), session.by(until + LATE_S))
        return status if has_ended(status) else await _end_of(session, request, until) or status

    async def wait_on(self, status: Status, timeout_s: float) -> Status:
        """The same for a request whose unfinished status was just read or returned by ``submit``."""
        if has_ended(status):
            return status
        return await self.wait_for(from_text(status["request_id"]), timeout_s) or status

    async def wait_for(
        self, request_id: bytes, timeout_s: float, *, caller: Caller = STORE, by: float | None = None
    ) -> Status | None:
        """The same by id, for a request that has not ended; None if ``timeout_s`` pass before it was looked at."""
        session = self._here()
        session.notifications.start()
        return await _end_of(session, request_id, session.loop_time() + timeout_s, caller, by)

    async def wait_for_all(
        self, request_ids: Sequence[bytes], timeout_s: float, caller: Caller = STORE
    ) -> list[Status | Problem]:
        """The statuses of requests once all of them have ended, or as they stand when ``timeout_s`` have passed."""
        self.listen()
        found = await self._ends_of(request_ids, asyncio.get_running_loop().time() + timeout_s, caller=caller)
        return [found[request_id] for request_id in request_ids]

    async def score(
        self, model: str, features: Mapping[str, Any], *, timeout_s: float = 30.0, priority: PriorityName = "normal"
    ) -> Status:
        """Submit and wait: the end of the request, within its timeout; the sweeper may take a few seconds more."""
        session = self._here()
        session.notifications.start()
        document = {"model": model, "features": features, "priority": priority, "timeout_s": timeout_s}
        submission = _submission(check_envelope(document), None, NAMELESS, no_cache=False)
        until = session.loop_time() + timeout_s
        accepted = await _accept(session, submission, session.by(until + LATE_S))
        if isinstance(accepted, Accepted):
            if accepted.end:
                return accepted.status()
            ended = await _end_of(session, accepted.id, until + SWEEP_S)
            if ended is not None:
                return ended
        return await session.read((accepted.id, STORE), session.by(until + SWEEP_S + LATE_S))

    def listen(self) -> None:
        """Begin to hear of ends. Who waits for one begins it by itself; who will, saves the first of them a look."""
        self._here().notifications.start()

    async def releases(self, *, fresh: bool = True) -> ReleaseTable:
        """Which models and versions can be asked for."""
        retrying = self._here().retrying
        return await retrying.releases(retrying.by(), fresh=fresh)


def _submission(request: ScoreRequest, key: str | None, tenant: Tenant, *, no_cache: bool) -> Submission:
    held = b""
    if key is not None:
        held = idempotency(tenant.name, key, request.model, request.features, request.priority, request.timeout_s)
    return Submission(
        request.model,
        request.features,
        Priority.of(request.priority),
        round(request.timeout_s * 1000),
        request.allow_degraded,
        held,
        no_cache,
        tenant.id,
    )


def _id(text: str) -> bytes:
    try:
        return from_text(text)
    except ValueError as error:
        raise InvalidRequest(str(error), errors=[{"pointer": "/request_id", "message": str(error)}]) from None


async def _accept(session: Session, submission: Submission, by: float, *, shed: bool = False) -> Accepted | Known:
    try:
        return await session.accept(submission, by, shed=shed)
    except Problem as refusal:
        again = partial(session.accept, submission, by, shed=shed)
        return await session.retrying.after_refusal(refusal, again, by)


async def _end_of(
    session: Session, request_id: bytes, until: float, caller: Caller = STORE, by: float | None = None
) -> Status | None:
    """The status of a request once it has ended, or as it stands ``until`` then; None if it was not looked at."""
    rely_s = looks()
    status: Status | None = None
    while (status is None or not has_ended(status)) and (left := until - session.loop_time()) > 0:
        announced = await session.notifications.wait([request_id], min(left, next(rely_s)))
        session.notifications.forget([request_id])
        if announced and caller.sees(tenant_of(announced[request_id])):
            status = status_of(request_id, unpack_entry(announced[request_id]))
        else:
            status = await session.read((request_id, caller), by or session.by(until + LATE_S), shed=by is not None)
    return status


async def _next(chunks: AsyncIterator[list[Request]]) -> list[Request] | None:
    return await anext(chunks, None)


async def _submit_chunk(
    retrying: Retrying, requests: Sequence[Request], after: asyncio.Task[list[Answer]] | None, tenant: Tenant
) -> list[Answer]:
    answers: list[Any] = []
    submissions: list[Submission] = []
    for request in requests:
        try:
            row = request if isinstance(request, ScoreRequest) else check_row(request)
            key, no_cache = (row.idempotency_key, row.no_cache) if isinstance(row, ScoreRow) else (None, False)
            submissions.append(_submission(row, key, tenant, no_cache=no_cache))
            answers.append(None)
        except Problem as problem:
            answers.append(problem)
    accepted = iter(await retrying.accept(submissions, after) if submissions else ())
    return [next(accepted) if answer is None else answer for answer in answers]
