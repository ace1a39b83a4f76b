"""The synchronous client: the asynchronous one on an event loop in a thread of its own."""

import asyncio
import concurrent.futures
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from pipeline.abandoning import abandon
from pipeline.client.asynchronous import AsyncScoringClient, Request
from pipeline.client.reading import SourceFailed, parts_read_apart
from pipeline.contracts.envelope import DEFAULT_TIMEOUT_S, PriorityName
from pipeline.contracts.problems import Problem
from pipeline.contracts.status import Status
from pipeline.ledger.keys import SCRIPT_LIMIT
from pipeline.ledger.releases import ReleaseTable
from pipeline.settings import Settings

Result = TypeVar("Result")


class ScoringClient:
    """Safe to share between threads: calls made at the same time share round trips.

    Every method does and raises what its namesake in ``AsyncScoringClient`` does.
    """

    def __init__(
        self, store_url: str | None = None, *, settings: Settings | None = None, retry_for_s: float = 30.0
    ) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="scoring-client", daemon=True)
        self._thread.start()
        self._client = self._run(self._make(store_url, settings, retry_for_s))

    @staticmethod
    async def _make(store_url: str | None, settings: Settings | None, retry_for_s: float) -> AsyncScoringClient:
        return AsyncScoringClient(store_url, settings=settings, retry_for_s=retry_for_s)

    def _run(self, call: Coroutine[Any, Any, Result]) -> Result:
        if self._loop.is_closed():
            call.close()
            raise RuntimeError("this client is closed")
        try:
            return asyncio.run_coroutine_threadsafe(call, self._loop).result()
        except concurrent.futures.CancelledError:
            raise RuntimeError("this client was closed meanwhile") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections and end the thread."""
        if self._loop.is_closed():
            return
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close(self) -> None:
        # Other threads' calls that are under way must not wait for ever.
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await self._client.close()
        await abandon(*others)

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
        return self._stream(lambda: self._client.submit_parts(parts_read_apart(requests, SCRIPT_LIMIT)))

    def score_many(self, requests: Iterable[Request], *, window: int = 8192) -> Iterator[Status | Problem]:
        """Hand in any number of requests and wait for each end; in order."""
        return self._stream(lambda: self._client.score_parts(parts_read_apart(requests, SCRIPT_LIMIT), window=window))

    def _stream(self, make: Callable[[], AsyncGenerator[list[Status | Problem], None]]) -> Iterator[Status | Problem]:
        stream = _Stream(make)
        try:
            while (part := self._run(stream.next())) is not None:
                yield from part
        except SourceFailed as failed:
            raise failed.error from None
        finally:
            self._run(stream.close())

    def get(self, request_id: str) -> Status:
        """How a request stands."""
        return self._run(self._client.get(request_id))

    def get_many(self, request_ids: Sequence[str]) -> list[Status | Problem]:
        """How many requests stand, in order."""
        return self._run(self._client.get_many(request_ids))

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
        """The next part; None at the end."""
        self._parts = self._parts or self._make()
        self._reading = asyncio.current_task()
        return await anext(self._parts, None)

    async def close(self) -> None:
        """End it, though a ``next`` that an interrupt has left may still be under way."""
        await abandon(self._reading)
        if self._parts is not None:
            await self._parts.aclose()
