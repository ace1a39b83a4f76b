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
from pipeline.client.asynchronous import AsyncScoringClient
from pipeline.client.background import Background
from pipeline.client.input_chunks import SourceFailed, chunks_read_in_thread
from pipeline.client.limits import CLOSED, CLOSED_MEANWHILE
from pipeline.client.streaming import Request, score_chunks, submit_chunks
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
    starts again there. The first call starts its thread.
    """

    def __init__(
        self, store_url: str | None = None, *, settings: Settings | None = None, retry_for_s: float = 30.0
    ) -> None:
        self._client = AsyncScoringClient(store_url, settings=settings, retry_for_s=retry_for_s)
        self._background: Background | None = None
        self._closed = False
        # Reentrant: a signal handler may close the client in the middle of a call of the same thread.
        self._lock = threading.RLock()
        forks.reset_in_child(self, ScoringClient._reset)

    def _reset(self) -> object:
        """In a forked process: leave to the parent what it has open."""
        left, self._background, self._lock = self._background, None, threading.RLock()
        if left is not None:
            left.leave_to_parent()
        return left

    def _started(self) -> Background:
        """The thread, which the first call starts."""
        with self._lock:
            if self._closed:
                raise RuntimeError(CLOSED)
            if sys.is_finalizing():
                raise RuntimeError("the interpreter is ending: its threads do not run any more")
            if self._background is None:
                self._background = Background(self._client.close)
            return self._background

    def _run(self, call: Coroutine[Any, Any, Result], thread: Background | None = None) -> Result:
        """Run ``call`` in the client's thread and return its result. ``thread``: the one it must be, if any."""
        try:
            with self._lock:  # it is started before the client is closed, or not at all
                background = self._started()
                if thread not in (None, background):
                    raise RuntimeError("this stream began before a fork: begin another one in this process")
                if background.is_current_thread():
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
            future.cancel()  # an interrupt of this thread: the call itself may still run
            raise

    def __enter__(self) -> Self:
        self._started()
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
        if background is not None and not background.is_current_thread() and not sys.is_finalizing():
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
        """Submit one request; its status once it is accepted."""
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
        """Submit any number of requests; for each, in order, its status or the problem it was refused for."""
        return self._stream(lambda: submit_chunks(self._client.core, chunks_read_in_thread(requests, SCRIPT_LIMIT)))

    def score_many(self, requests: Iterable[Request], *, window: int = 8192) -> Iterator[Status | Problem]:
        """Submit any number of requests and wait for each end; in order."""
        return self._stream(
            lambda: score_chunks(self._client.core, chunks_read_in_thread(requests, SCRIPT_LIMIT), window=window)
        )

    def _stream(self, make: Callable[[], AsyncGenerator[list[Status | Problem], None]]) -> Iterator[Status | Problem]:
        return self._take(_Stream(make), self._started())

    def _take(self, stream: "_Stream", thread: Background) -> Iterator[Status | Problem]:
        try:
            while (chunk := self._run(stream.next(), thread)) is not None:
                yield from chunk
        except SourceFailed as failed:
            raise failed.error from None
        finally:
            self._end(stream, thread)

    def _end(self, stream: "_Stream", thread: Background) -> None:
        """End a stream, unless it has ended together with its event loop."""
        with self._lock:
            if self._closed or thread is not self._background or sys.is_finalizing():
                return
            ending = thread.start(stream.close())
        if not thread.is_current_thread():  # it is where the collector finds an abandoned stream
            concurrent.futures.wait([ending])

    def get(self, request_id: str) -> Status:
        """The status of a request."""
        return self._run(self._client.get(request_id))

    def get_many(self, request_ids: Sequence[str]) -> list[Status | Problem]:
        """The statuses of many requests, in order."""
        # Listed here: an iterable of ids may call this client, which must not happen in its own thread.
        return self._run(self._client.get_many(list(request_ids)))

    def cancel(self, request_id: str) -> Status:
        """End a request that scoring has not begun."""
        return self._run(self._client.cancel(request_id))

    def wait(self, request_id: str, timeout_s: float = 30.0) -> Status:
        """The status once the request has ended, or as it is when ``timeout_s`` have passed."""
        return self._run(self._client.wait(request_id, timeout_s))

    def releases(self) -> ReleaseTable:
        """The models and versions that can be asked for."""
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
        self._chunks: AsyncGenerator[list[Status | Problem], None] | None = None
        self._reading: asyncio.Task[Any] | None = None

    async def next(self) -> list[Status | Problem] | None:
        """The next chunk; None at the end."""
        self._chunks = self._chunks or self._make()
        self._reading = asyncio.current_task()
        return await anext(self._chunks, None)

    async def close(self) -> None:
        """End the stream, even if a ``next`` that was interrupted is still under way."""
        await abandon(self._reading)
        if self._chunks is not None:
            await self._chunks.aclose()
