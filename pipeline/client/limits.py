"""Time limits: a call has one for all of it - queueing, round trips and pauses - and does not outlive its client."""

import asyncio
from types import TracebackType

from pipeline.contracts.problems import StoreUnavailable

CLOSED = "this client is closed: make a new one"
CLOSED_MEANWHILE = "this client was closed meanwhile; what was sent may or may not have been accepted"


class Calls:
    """The calls of one client that are under way in the tasks of its callers."""

    def __init__(self) -> None:
        self._closed = False
        self._under_way: set[_Limit] = set()
        self._last_left = asyncio.Event()

    def limit(self, by: float) -> "_Limit":
        """A context that raises StoreUnavailable unless it is left ``by`` then (the event loop's time).

        RuntimeError if the client is closed, or as soon as it is.
        """
        return _Limit(self, by)

    async def close(self) -> None:
        """End all that are under way, and begin no more."""
        self._closed = True
        for limit in self._under_way:
            limit.end()
        if self._under_way:
            await self._last_left.wait()

    def begin(self, limit: "_Limit") -> None:
        """Count a call in."""
        if self._closed:
            raise RuntimeError(CLOSED_MEANWHILE)
        self._under_way.add(limit)

    def leave(self, limit: "_Limit") -> Exception:
        """Count a call out; returns what it raises if its time was over."""
        self._under_way.discard(limit)
        if not self._closed:
            return StoreUnavailable("the store did not answer in time")
        if not self._under_way:
            self._last_left.set()
        return RuntimeError(CLOSED_MEANWHILE)


class _Limit:
    def __init__(self, calls: Calls, by: float) -> None:
        self._calls = calls
        self._scope = asyncio.timeout_at(by)

    async def __aenter__(self) -> None:
        self._calls.begin(self)
        await self._scope.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        over = self._calls.leave(self)
        try:
            await self._scope.__aexit__(kind, error, trace)
        except TimeoutError:
            raise over from None

    def end(self) -> None:
        """End the call as if its time were over."""
        if not self._scope.expired():
            self._scope.reschedule(0)
