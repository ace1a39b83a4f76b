"""The synchronous client: the asynchronous one on an event loop in a thread of its own."""

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from pipeline.client.asynchronous import AsyncScoringClient, Request
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

    def __init__(self, store_url: str | None = None, *, settings: Settings | None = None) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="scoring-client", daemon=True)
        self._thread.start()
        self._client = self._run(self._make(store_url, settings))

    @staticmethod
    async def _make(store_url: str | None, settings: Settings | None) -> AsyncScoringClient:
        return AsyncScoringClient(store_url, settings=settings)

    def _run(self, call: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(call, self._loop).result()

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
        self._run(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def submit(
        self,
        model: str,
        features: Mapping[str, Any],
        *,
        priority: PriorityName = "normal",
        timeout_s: float = DEFAULT_TIMEOUT_S,
        allow_degraded: bool = True,
    ) -> Status:
        """Hand in one request; its status once it is accepted."""
        return self._run(
            self._client.submit(model, features, priority=priority, timeout_s=timeout_s, allow_degraded=allow_degraded)
        )

    def submit_many(self, requests: Iterable[Request]) -> Iterator[Status | Problem]:
        """Hand in any number of requests; for each, in order, its status or the problem it was refused for."""
        return self._stream(self._client.submit_chunks(self._read_apart(requests)))

    def score_many(self, requests: Iterable[Request], *, window: int = 8192) -> Iterator[Status | Problem]:
        """Hand in any number of requests and wait for each end; in order."""
        return self._stream(self._client.score_chunks(self._read_apart(requests), window=window))

    def _stream(self, chunks: AsyncGenerator[list[Status | Problem], None]) -> Iterator[Status | Problem]:
        try:
            while (chunk := self._run(_next(chunks))) is not None:
                yield from chunk
        except _SourceFailed as failed:
            raise failed.error from None
        finally:
            self._run(chunks.aclose())

    @staticmethod
    async def _read_apart(requests: Iterable[Request]) -> AsyncIterator[Request]:
        # The caller's iterable may block (a file, a query): other threads' calls must not wait for it.
        iterator = iter(requests)
        error: BaseException | None = None
        while error is None:
            part, error = await asyncio.to_thread(_take, iterator, SCRIPT_LIMIT)
            for request in part:
                yield request
            if not part and error is None:
                return
        raise _SourceFailed(error)

    def get(self, request_id: str) -> Status:
        """How a request stands."""
        return self._run(self._client.get(request_id))

    def get_many(self, request_ids: Sequence[str]) -> list[Status | Problem]:
        """How many requests stand, in order."""
        return self._run(self._client.get_many(request_ids))

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


class _SourceFailed(Exception):
    """The caller's iterable raised. Carried to the caller's thread: an exit or interrupt would stop the loop."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error


async def _next(chunks: AsyncIterator[list[Status | Problem]]) -> list[Status | Problem] | None:
    return await anext(chunks, None)


def _take(iterator: Iterator[Request], count: int) -> tuple[list[Request], BaseException | None]:
    part: list[Request] = []
    try:
        for request in iterator:
            part.append(request)
            if len(part) == count:
                break
    except BaseException as error:  # noqa: BLE001 - raised again where the caller can meet it
        return part, error
    return part, None
