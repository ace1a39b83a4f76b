"""Clients for users' own tests: the real ones' methods, answered from memory. No store, no threads."""

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from pipeline.client.memory import Memory
from pipeline.client.streaming import Request
from pipeline.contracts.envelope import DEFAULT_TIMEOUT_S, PriorityName
from pipeline.contracts.problems import Problem
from pipeline.contracts.releases import ReleaseTable
from pipeline.contracts.status import Status
from pipeline.ledger.keys import SCRIPT_LIMIT


class FakeScoringClient(Memory):
    """Answers every request with ``score(model, features)``, with the methods of ``ScoringClient``.

    ``score`` returns the result; or raises InvalidInput (``pipeline.contracts.failures``) to end the request as
    ``invalid``, a Problem to have it refused, anything else to end it as ``dead``. With ``held`` requests stay queued
    until ``finish`` is called with their ids. ``submitted`` lists what was accepted. ``releases`` are what the method
    of that name gives; a model need not be among them.
    """

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Later calls: RuntimeError, as from the real one. ``finish`` and ``submitted`` stay."""
        self._closed = True

    def submit(
        self,
        model: str,
        features: Mapping[str, Any],
        *,
        priority: PriorityName = "normal",
        timeout_s: float = DEFAULT_TIMEOUT_S,
        allow_degraded: bool = True,
        no_cache: bool = False,  # noqa: ARG002 - a fake has no cache
        idempotency_key: str | None = None,
    ) -> Status:
        """Submit one request; its status as accepted. It ends when it is read next, unless it is held."""
        return self._submit(_document(model, features, priority, timeout_s, allow_degraded), idempotency_key)

    def submit_many(self, requests: Iterable[Request]) -> Iterator[Status | Problem]:
        """Submit any number of requests; for each, in order, its status or the problem it was refused for."""
        self._check_open()
        return map(self._submit_row, requests)

    def score_many(self, requests: Iterable[Request], *, window: int = 8192) -> Iterator[Status | Problem]:  # noqa: ARG002
        """Submit any number of requests; the end of each, in order."""
        self._check_open()
        return map(self._score_row, requests)

    def get(self, request_id: str) -> Status:
        """The status of a request; NotFound, InvalidRequest (malformed id)."""
        return self._get(request_id)

    def get_many(self, request_ids: Sequence[str]) -> list[Status | Problem]:
        """The statuses of many requests, in order."""
        return self._get_many(request_ids)

    def wait(self, request_id: str, timeout_s: float = 30.0) -> Status:  # noqa: ARG002
        """The status once the request has ended; as it is at once if it is held."""
        return self._get(request_id)

    def cancel(self, request_id: str) -> Status:
        """End a request that is held."""
        return self._cancel(request_id)

    def score(
        self, model: str, features: Mapping[str, Any], *, timeout_s: float = 30.0, priority: PriorityName = "normal"
    ) -> Status:
        """Submit and wait: the end of the request."""
        return self._get(self._submit(_document(model, features, priority, timeout_s))["request_id"])

    def releases(self) -> ReleaseTable:
        """The releases that the fake was made with."""
        return self._releases()


class AsyncFakeScoringClient(Memory):
    """As ``FakeScoringClient``, with the methods of ``AsyncScoringClient``."""

    async def __aenter__(self) -> Self:
        self._check_open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Later calls: RuntimeError, as from the real one. ``finish`` and ``submitted`` stay."""
        self._closed = True

    async def submit(
        self,
        model: str,
        features: Mapping[str, Any],
        *,
        priority: PriorityName = "normal",
        timeout_s: float = DEFAULT_TIMEOUT_S,
        allow_degraded: bool = True,
        no_cache: bool = False,  # noqa: ARG002 - a fake has no cache
        idempotency_key: str | None = None,
    ) -> Status:
        """Submit one request; its status as accepted. It ends when it is read next, unless it is held."""
        return self._submit(_document(model, features, priority, timeout_s, allow_degraded), idempotency_key)

    def submit_many(
        self,
        requests: Iterable[Request] | AsyncIterable[Request],
        *,
        chunk: int = SCRIPT_LIMIT,  # noqa: ARG002 - a fake sends no chunks
    ) -> AsyncIterator[Status | Problem]:
        """Submit any number of requests; for each, in order, its status or the problem it was refused for."""
        return _each(self._submit_row, requests)

    def score_many(
        self,
        requests: Iterable[Request] | AsyncIterable[Request],
        *,
        window: int = 8192,  # noqa: ARG002 - nothing is unfinished for long
    ) -> AsyncIterator[Status | Problem]:
        """Submit any number of requests; the end of each, in order."""
        return _each(self._score_row, requests)

    async def get(self, request_id: str) -> Status:
        """The status of a request; NotFound, InvalidRequest (malformed id)."""
        return self._get(request_id)

    async def get_many(self, request_ids: Sequence[str]) -> list[Status | Problem]:
        """The statuses of many requests, in order."""
        return self._get_many(request_ids)

    async def wait(self, request_id: str, timeout_s: float = 30.0) -> Status:  # noqa: ARG002
        """The status once the request has ended; as it is at once if it is held."""
        return self._get(request_id)

    async def cancel(self, request_id: str) -> Status:
        """End a request that is held."""
        return self._cancel(request_id)

    async def score(
        self, model: str, features: Mapping[str, Any], *, timeout_s: float = 30.0, priority: PriorityName = "normal"
    ) -> Status:
        """Submit and wait: the end of the request."""
        return self._get(self._submit(_document(model, features, priority, timeout_s))["request_id"])

    async def releases(self, *, fresh: bool = True) -> ReleaseTable:  # noqa: ARG002
        """The releases that the fake was made with."""
        return self._releases()


def _document(
    model: str, features: Mapping[str, Any], priority: str, timeout_s: float, allow_degraded: bool = True
) -> dict[str, Any]:
    return {
        "model": model,
        "features": features,
        "priority": priority,
        "timeout_s": timeout_s,
        "allow_degraded": allow_degraded,
    }


async def _each(
    answer: Callable[[Request], Status | Problem], requests: Iterable[Request] | AsyncIterable[Request]
) -> AsyncIterator[Status | Problem]:
    if isinstance(requests, AsyncIterable):
        async for request in requests:
            yield answer(request)
    else:
        for request in requests:
            yield answer(request)
