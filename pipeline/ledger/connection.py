"""Connections to the store: time limits on every call, and the store's errors as the problems they are."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as StoreConnectionError
from redis.exceptions import NoPermissionError, OutOfMemoryError, RedisError, ResponseError
from redis.exceptions import TimeoutError as StoreTimeoutError
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

from pipeline.contracts.problems import Problem, StoreFull, StoreUnavailable
from pipeline.ledger.direct import (
    DirectAsyncClient,
    DirectClient,
    DirectConnection,
    DirectTlsConnection,
    FollowingConnection,
    FollowingTlsConnection,
    Moved,
    Packer,
)
from pipeline.settings import Settings

# redis-py's types leave open whether replies are bytes or text, and of which shape; ours are always bytes, and of the
# shape that the command has. Naming that at each of a hundred calls would hide them.
Client = Any
AsyncClient = Any


CONNECTIONS = 64
OUTAGES = (StoreConnectionError, StoreTimeoutError, OSError)
"""The store is away, or does not answer in time. Its other errors are about one call."""


def _options(settings: Settings, extra_wait_s: float) -> dict[str, Any]:
    return {
        "socket_connect_timeout": settings.store_timeout_s,
        "socket_timeout": settings.store_timeout_s + extra_wait_s,
        "socket_keepalive": True,
        "health_check_interval": 0,
        "decode_responses": False,
        # A service of one vendor's cloud. Where it is on, redis-py hands out connections that the server has closed.
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
        # A call that failed may have been carried out: sending it again is the caller's decision, never the socket's.
        "retry": None,
    }


def connect(settings: Settings, *, extra_wait_s: float = 0.0) -> Client:
    """A synchronous client. ``extra_wait_s``: the longest blocking read it will make."""
    options = _options(settings, extra_wait_s) | {"retry": Retry(NoBackoff(), 0), "command_packer": Packer()}
    kind = FollowingTlsConnection if settings.store_url.startswith("rediss:") else FollowingConnection
    pool = redis.ConnectionPool.from_url(settings.store_url, connection_class=kind, **options)
    return DirectClient(connection_pool=pool)


def connect_async(settings: Settings) -> AsyncClient:
    """An asynchronous client."""
    options = _options(settings, 0.0) | {"retry": redis.asyncio.retry.Retry(NoBackoff(), 0)}
    kind = DirectTlsConnection if settings.store_url.startswith("rediss:") else DirectConnection
    pool = redis.asyncio.ConnectionPool.from_url(settings.store_url, connection_class=kind, **options)
    return DirectAsyncClient(connection_pool=pool, connections=CONNECTIONS, patience_s=settings.store_timeout_s)


def as_problem(error: Exception) -> Problem:
    """What an error of the store means to a caller."""
    if isinstance(error, OutOfMemoryError) or (isinstance(error, ResponseError) and "OOM" in str(error)):
        return StoreFull("the store has reached its memory limit; accepted requests go on, send new ones later")
    if isinstance(error, ResponseError) and "MISCONF" in str(error):
        return StoreFull("the store cannot write to its disk; free space there, then send again")
    if isinstance(error, Moved):
        return StoreUnavailable(str(error))
    if isinstance(error, NoPermissionError):
        return StoreUnavailable(f"the store's user lacks rights; scoreline doctor lists them: {error}")
    if isinstance(error, OUTAGES):
        return StoreUnavailable(f"the store did not answer in time or refused the connection: {error}")
    return StoreUnavailable(f"the store answered with an error: {error}")


@contextmanager
def store_problems() -> Iterator[None]:
    """Raise the store's errors as problems."""
    try:
        yield
    except (RedisError, OSError) as error:
        raise as_problem(error) from error
