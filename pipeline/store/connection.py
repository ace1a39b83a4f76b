"""Connections to the store, with a time limit on every call."""

from typing import Any

import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

from pipeline.settings import Settings
from pipeline.store.client import (
    DirectAsyncClient,
    DirectClient,
    DirectConnection,
    DirectTlsConnection,
    FollowingConnection,
    FollowingTlsConnection,
    Packer,
)

# redis-py's types leave open whether replies are bytes or text, and of which shape; ours are always bytes, and of the
# shape that the command has. Naming that at each of a hundred calls would hide them.
Client = Any
AsyncClient = Any


CONNECTIONS = 64
WITHOUT_MAINTENANCE = {"maint_notifications_config": MaintNotificationsConfig(enabled=False)}
"""A service of one vendor's cloud. Where it is on, redis-py hands out connections that the server has closed."""


def _options(settings: Settings, extra_wait_s: float) -> dict[str, Any]:
    return {
        "socket_connect_timeout": settings.store_timeout_s,
        "socket_timeout": settings.store_timeout_s + extra_wait_s,
        "socket_keepalive": True,
        "health_check_interval": 0,
        "decode_responses": False,
        **WITHOUT_MAINTENANCE,
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
