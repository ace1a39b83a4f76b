"""The synchronous client: the asynchronous one on an event loop in a thread of its own."""

import asyncio
import concurrent.futures
import sys
import threading
import warnings
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from pipeline.client import forks
from pipeline.client.asynchronous import AsyncScoringClient, Request
from pipeline.client.background import Background
from pipeline.client.input_chunks import SourceFailed, chunks_read_apart
from pipeline.client.limits import CLOSED, CLOSED_MEANWHILE
from pipeline.contracts.envelope import DEFAULT_TIMEOUT_S, PriorityName
from pipeline.contracts.problems import Problem
from pipeline.contracts.releases import ReleaseTable
from pipeline.contracts.status import Status
from pipeline.ledger.keys import SCRIPT_LIMIT
from pipeline.service.cancellation import abandon
from pipeline.settings import Settings

Result = TypeVar("Result")


class ScoringClient:
    """Safe to share between threads: calls made at the same time share round trips.

    Every method does and raises what its namesake in ``AsyncScoringClient`` does. A forked process may use it, too: it
    starts again there. The thread begins with the first call.
    """

    def __init__(
        self, store_url: str | None = None, *, settings: Settings | None = None, retry_for_s: float = 30.0
    ) -> None:
        self._client = AsyncScoringClient(store_url, settings=settings, retry_for_s=retry_for_s)
        self._background: Background | None = None
        self._closed = False
        # A signal's handler may close it in the midst of a call of the same thread.
        self._lock = threading.RLock()
        forks.watch(self, ScoringClient._start_after_fork)

    def _start_after_fork(self) -> object:
        """In a forked process: leave to the parent what it has open."""
        left, self._background, self._lock = self._background, None, threading.RLock()
        if left is not None:
            left.leave_to_parent()
        return left

    def _begun(self) -> Background:
        with self._lock:
            if self._closed:
                raise RuntimeError(CLOSED)
            if sys.is_finalizing():
                raise RuntimeError("the interpreter is ending: its threads do not run any more")
            if self._background is None:
                self._background = Background(self._client.close)
            return self._background

    def _run(self, call: Coroutine[Any, Any, Result], begun: Background | None = None) -> Result:
        """What ``call`` gives. ``begun``: where it must run, if anywhere."""
        try:
            with self._lock:  # it is started before the client is closed, or not at all
                background = self._begun()
                if begun not in (None, background):
                    raise RuntimeError("this stream began before a fork: begin another one in this process")
                if background.is_here():
                    raise RuntimeError("a call from within the client's own thread would wait for itself")
                future = background.start(call)
        except BaseException:
            call.close()
            raise
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise RuntimeError(CLOSED_MEANWHILE) from None
        except BaseException:
            future.cancel()  # if it is not done: an interrupt of this thread is not the call's
            raise

    def __enter__(self) -> Self:
        self._begun()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        background: Background | None = getattr(self, "_background", None)
        if background is not None and not self._closed and not sys.is_finalizing():
            warnings.warn(f"{self!r} was not closed", ResourceWarning, stacklevel=2, source=self)
            background.leave()

    def close(self) -> None:
        """End all calls, close the connections and end the thread. Calls under way and later ones: RuntimeError."""
        with self._lock:
            self._closed = True
            background = self._background
            if background is not None:
                background.leave()
        if background is not None and not background.is_here() and not sys.is_finalizing():
            background.join()

    def submit(
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
        """Hand in one request; its status once it is accepted."""
        return self._run(
            self._client.submit(
                model,
                features,
                priority=priority,
                timeout_s=timeout_s,
                allow_degraded=allow_degraded,
                no_cache=no_cache,
                idempotency_key=idempotency_key,
            )
        )

    def submit_many(self, requests: Iterable[Request]) -> Iterator[Status | Problem]:
        """Hand in any number of requests; for each, in order, its status or the problem it was refused for."""
        return self._stream(lambda: self._client.submit_chunks(chunks_read_apart(requests, SCRIPT_LIMIT)))

    def score_many(self, requests: Iterable[Request], *, window: int = 8192) -> Iterator[Status | Problem]:
        """Hand in any number of requests and wait for each end; in order."""
        return self._stream(lambda: self._client.score_chunks(chunks_read_apart(requests, SCRIPT_LIMIT), window=window))

    def _stream(self, make: Callable[[], AsyncGenerator[list[Status | Problem], None]]) -> Iterator[Status | Problem]:
        return self._take(_Stream(make), self._begun())

    def _take(self, stream: "_Stream", begun: Background) -> Iterator[Status | Problem]:
        try:
            while (chunk := self._run(stream.next(), begun)) is not None:
                yield from chunk
        except SourceFailed as failed:
            raise failed.error from None
        finally:
            self._end(stream, begun)

    def _end(self, stream: "_Stream", begun: Background) -> None:
        """End a stream, unless its end has come with that of its event loop."""
        with self._lock:
            if self._closed or begun is not self._background or sys.is_finalizing():
                return
            ending = begun.start(stream.close())
        if not begun.is_here():  # where the collector has found a stream that was left
            concurrent.futures.wait([ending])

    def get(self, request_id: str) -> Status:
        """How a request stands."""
        return self._run(self._client.get(request_id))

    def get_many(self, request_ids: Sequence[str]) -> list[Status | Problem]:
        """How many requests stand, in order."""
        # Taken here: ids that come from another call of this client must not be waited for in its thread.
        return self._run(self._client.get_many(list(request_ids)))

    def cancel(self, request_id: str) -> Status:
        """End a request that scoring has not begun."""
        return self._run(self._client.cancel(request_id))

    def wait(self, request_id: str, timeout_s: float = 30.0) -> Status:
        """The status once the request has ended, or as it stands when ``timeout_s`` have passed."""
        return self._run(self._client.wait(request_id, timeout_s))

    def releases(self) -> ReleaseTable:
        """Which models and versions can be asked for."""
        return self._run(self._client.releases())

    def score(
        self, model: str, features: Mapping[str, Any], *, timeout_s: float = 30.0, priority: PriorityName = "normal"
    ) -> Status:
        """Submit and wait: the end of the request."""
        return self._run(self._client.score(model, features, timeout_s=timeout_s, priority=priority))


class _Stream:
    """A stream of answers in the client's event loop, which its caller may leave at any time."""

    def __init__(self, make: Callable[[], AsyncGenerator[list[Status | Problem], None]]) -> None:
        self._make = make
        self._parts: AsyncGenerator[list[Status | Problem], None] | None = None
        self._reading: asyncio.Task[Any] | None = None

    async def next(self) -> list[Status | Problem] | None:
        """The next chunk; None at the end."""
        self._parts = self._parts or self._make()
        self._reading = asyncio.current_task()
        return await anext(self._parts, None)

    async def close(self) -> None:
        """End it, though a ``next`` that an interrupt has left may still be under way."""
        await abandon(self._reading)
        if self._parts is not None:
            await self._parts.aclose()
