"""The asynchronous client: submit, read and wait, with round trips shared by all tasks of the event loop."""

import asyncio
import sys
import threading
import warnings
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self

from pipeline.client import forks
from pipeline.client.core import READ_LIMIT, Accepted, Core, has_ended
from pipeline.client.input_chunks import chunks_of
from pipeline.client.limits import CLOSED
from pipeline.client.streaming import Request, one_by_one, score_chunks, submit_chunks
from pipeline.client.waiting import LAST_READ_S, wait_for_end
from pipeline.contracts.envelope import DEFAULT_TIMEOUT_S, PriorityName, check_envelope, check_key
from pipeline.contracts.ids import parse_id
from pipeline.contracts.problems import Problem
from pipeline.contracts.releases import ReleaseTable
from pipeline.contracts.status import Status
from pipeline.ledger.keys import SCRIPT_LIMIT
from pipeline.settings import Settings, read_settings
from pipeline.store.connection import AsyncClient

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
        self, store_url: str | None = None, *, settings: Settings | None = None, retry_for_s: float = 30.0
    ) -> None:
        settings = settings or read_settings()
        if store_url is not None:
            settings = settings.model_copy(update={"store_url": store_url})
        self._make_core = partial(Core, settings, retry_for_s=retry_for_s)
        self._core: Core | None = self._make_core()
        self._closed = False
        self._lock = threading.Lock()
        forks.reset_in_child(self, AsyncScoringClient._reset)

    async def __aenter__(self) -> Self:
        self.core  # noqa: B018 - RuntimeError if it is closed
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def core(self) -> Core:
        """What is open in the running event loop. For Scoreline's own commands: its methods may change."""
        core, loop = self._core, asyncio.get_running_loop()
        return core if core is not None and core.loop is loop else self._open_core(loop)

    @property
    def store(self) -> AsyncClient:
        """The connections, for the running event loop."""
        return self.core.store

    def _open_core(self, loop: asyncio.AbstractEventLoop) -> Core:
        with self._lock:
            if self._closed:
                raise RuntimeError(CLOSED)
            core = self._core
            if core is None or (core.loop is not None and core.loop.is_closed()):
                core = self._core = self._make_core()
            elif core.loop is not None:
                raise RuntimeError(
                    "this client serves another event loop, which is still open: make an AsyncScoringClient for each "
                    "event loop, or one ScoringClient for all threads"
                )
            core.loop = loop
            return core

    def _reset(self) -> object:
        """In a forked process: leave to the parent what it has open."""
        left, self._core, self._lock = self._core, None, threading.Lock()
        return left

    def __del__(self) -> None:
        core: Core | None = getattr(self, "_core", None)
        if core is not None and core.loop is not None and not sys.is_finalizing():
            warnings.warn(f"{self!r} was not closed", ResourceWarning, stacklevel=2, source=self)
            core.close_soon()

    async def close(self) -> None:
        """Close the connections. Calls under way end with a RuntimeError, as do later ones."""
        with self._lock:
            core = self._core
            if core is not None and core.loop is not None and not core.loop.is_closed():
                if core.loop is not asyncio.get_running_loop():
                    raise RuntimeError("this client serves another event loop, which is still open: close it there")
            else:
                core = None  # what was open has gone with its event loop
            self._core, self._closed = None, True
        if core is not None:
            await core.close()

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
        """Submit one request; its status once it is accepted. Poll for the answer by its ``request_id``.

        It may have ended: what was computed recently is given again. ``no_cache``: compute it again, for this call
        alone.

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
        request, core = check_envelope(document), self.core
        by = core.by()
        accepted = await core.accept(request, key, no_cache=no_cache, by=by)
        return accepted.status() if isinstance(accepted, Accepted) else await core.read(accepted.id, by=by)

    def submit_many(
        self, requests: Iterable[Request] | AsyncIterable[Request], *, chunk: int = SCRIPT_LIMIT
    ) -> AsyncIterator[Status | Problem]:
        """Submit any number of requests; for each, in order, its status or the problem it was refused for.

        A request is a document as ``POST /v1/scores/batch`` takes it; it may carry an ``idempotency_key``.
        Streams: a few chunks are held at a time, and the iterable is read no faster than the store accepts.
        What the iterable raises is raised here, after the answers to what it gave before.
        """
        return one_by_one(lambda: submit_chunks(self.core, chunks_of(requests, min(chunk, SCRIPT_LIMIT))))

    def score_many(
        self, requests: Iterable[Request] | AsyncIterable[Request], *, window: int = 8192
    ) -> AsyncIterator[Status | Problem]:
        """Submit any number of requests and wait for each end; in order, each as soon as those before it have ended.

        At most about ``window`` requests are unfinished at once.
        """
        return one_by_one(lambda: score_chunks(self.core, chunks_of(requests, SCRIPT_LIMIT), window=window))

    async def get(self, request_id: str) -> Status:
        """The status of a request; NotFound, Gone, InvalidRequest (malformed id)."""
        return await self.core.read(parse_id(request_id))

    async def get_many(self, request_ids: Sequence[str]) -> list[Status | Problem]:
        """The statuses of many requests, in order; NotFound or Gone in the place of those without a record."""
        ids = [parse_id(request_id) for request_id in request_ids]
        core = self.core
        answers: list[Status | Problem] = []
        for start in range(0, len(ids), READ_LIMIT):
            answers += await core.retrying.read(ids[start : start + READ_LIMIT], core.by())
        return answers

    async def cancel(self, request_id: str) -> Status:
        """End a request that scoring has not begun; its status, also if it was cancelled before.

        NotFound, Gone, AlreadyEnded (otherwise), TooLate (it is being scored and will end by itself).
        """
        return await self.core.cancel(parse_id(request_id))

    async def wait(self, request_id: str, timeout_s: float = 30.0) -> Status:
        """The status once the request has ended, or as it is when ``timeout_s`` have passed.

        StoreUnavailable if the store does not answer by then.
        """
        request, core = parse_id(request_id), self.core
        core.listen()
        until = core.time() + timeout_s
        status = await core.read(request, by=core.by(until + LAST_READ_S))
        return status if has_ended(status) else await wait_for_end(core, request, until) or status

    async def score(
        self, model: str, features: Mapping[str, Any], *, timeout_s: float = 30.0, priority: PriorityName = "normal"
    ) -> Status:
        """Submit and wait: the end of the request, within its timeout; the sweeper may take a few seconds more."""
        core = self.core
        core.listen()
        request = check_envelope({"model": model, "features": features, "priority": priority, "timeout_s": timeout_s})
        until = core.time() + timeout_s
        accepted = await core.accept(request, by=core.by(until + LAST_READ_S))
        if isinstance(accepted, Accepted):
            if accepted.end:
                return accepted.status()
            ended = await wait_for_end(core, accepted.id, until + SWEEP_S)
            if ended is not None:
                return ended
        return await core.read(accepted.id, by=core.by(until + SWEEP_S + LAST_READ_S))

    async def releases(self, *, fresh: bool = True) -> ReleaseTable:
        """The models and versions that can be asked for."""
        return await self.core.releases(fresh=fresh)
