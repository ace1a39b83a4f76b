"""A cache of results on a server of its own (``SCORELINE_CACHE_URL``). Best effort: it may be gone at any time.

Without one, the ledger itself finds again what it has: ``f:CACHE_KEY`` points to the request that was computed last,
for as long as its model says, and its record is copied (``accept.lua``). Nothing of this module is used then.

Its keys are ``x:``, ``xi`` and ``xs`` (see ``legend``).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgpack
import pybreaker
from redis.exceptions import RedisError

from pipeline.breakers.calls import Breakers
from pipeline.contracts.stages import State
from pipeline.contracts.work import Completed, Header, Links, Outcome, Progress, Work
from pipeline.ledger import keys
from pipeline.ledger.records import End, end_of, links_of, pack_prefix
from pipeline.ledger.scripts import Scripts
from pipeline.settings import Settings
from pipeline.store.connection import connect, connect_async

PAUSE_S = 5.0
"""How long a cache that failed is left alone. Its death costs speed, and this keeps it from costing time."""
TIMEOUT_S = 0.25
"""How long a call to a cache on a server of its own may take."""


class Hit(NamedTuple):
    """What is kept of a computation that ended well."""

    result: Any
    anomalies: Sequence[dict[str, Any]]
    scored_by: str

    def record(self, header: Header, links: Links) -> bytes:
        """The record of another request that ends with it, at the moment it is accepted."""
        end = End(0, self.result, None, 0, self.scored_by)
        prefix = pack_prefix(header, links, cached=True)
        return end_of(State.SUCCEEDED, prefix, Progress(0, (), self.anomalies), end)


def _breaker(breakers: Breakers) -> pybreaker.CircuitBreaker:
    return breakers.breaker("cache", pause_s=PAUSE_S)


def _its_own(url: str, settings: Settings) -> Settings:
    """The settings to connect with."""
    return settings.model_copy(update={"store_url": url, "store_timeout_s": TIMEOUT_S})


class CacheReader:
    """The producers' side: look before accepting."""

    def __init__(self, url: str, settings: Settings, breakers: Breakers) -> None:
        self._client = connect_async(_its_own(url, settings))
        self._breaker = _breaker(breakers)

    async def look(self, cache_keys: Sequence[bytes]) -> list[Hit | None]:
        """For each key what is kept; nothing if the cache is away."""
        try:
            with self._breaker.calling():
                blobs = await self._client.mget([keys.cached(key) for key in cache_keys])
        except (RedisError, OSError, pybreaker.CircuitBreakerError):
            return [None] * len(cache_keys)
        return [_unpack(blob) for blob in blobs]

    async def close(self) -> None:
        """Close the connection."""
        await self._client.aclose()


def _unpack(blob: bytes | None) -> Hit | None:
    try:
        return None if blob is None else Hit(*msgpack.unpackb(blob, strict_map_key=False))
    except (ValueError, TypeError):  # what another release has left there, or what is damaged
        return None


class CacheFiller:
    """The last stage's side: keep what has ended well."""

    def __init__(self, url: str, settings: Settings, breakers: Breakers) -> None:
        self._scripts = Scripts(connect(_its_own(url, settings)))
        self._max_bytes = settings.cache_max_bytes
        self._breaker = _breaker(breakers)

    def fill(self, works: Sequence[Work], outcomes: Sequence[Outcome]) -> None:
        """Keep the results of a batch that is settled, those that may be given again. No matter if that fails.

        A degraded answer may not.
        """
        hits: dict[float, list[object]] = {}
        for work, outcome in zip(works, outcomes, strict=True):
            cache_key, ttl_s = links_of(work.prefix).cache_key, work.header.cache_s
            if cache_key and ttl_s and isinstance(outcome, Completed):
                if work.progress.scored_by or outcome.output.scored_by:
                    continue
                anomalies = (*work.progress.anomalies, *outcome.output.anomalies)
                hit = Hit(outcome.output.body, anomalies, f"{work.header.model}@{work.header.version}")
                try:
                    hits.setdefault(ttl_s, []).extend((cache_key, msgpack.packb(hit)))
                except (TypeError, ValueError, OverflowError):
                    continue  # the ledger could not hold it either: it has ended as dead
        for ttl_s, pairs in hits.items():
            try:
                with self._breaker.calling():
                    self._scripts.cache_fill(args=[self._max_bytes, round(ttl_s * 1000), *pairs])
            except (RedisError, OSError, pybreaker.CircuitBreakerError):
                return
