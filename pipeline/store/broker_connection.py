"""Connections for a message broker's client: what the server refuses there is an error of the connection."""

from typing import Any

from redis.exceptions import ConnectionError as StoreConnectionError
from redis.exceptions import NoPermissionError, ReadOnlyError

from pipeline.store.client import FollowingConnection, FollowingTlsConnection

__all__ = ["BrokerConnection", "BrokerTlsConnection", "StoreConnectionError"]


class _RefusalsEndIt:
    """A connection on which a refusal is an error of the connection, which Celery answers by connecting again.

    After an error of a call Celery ends its worker. A right that was taken away may be given back.
    """

    def read_response(self, *arguments: Any, **options: Any) -> Any:
        """The next reply; what went wrong within a transaction is not hidden in it."""
        try:
            reply = super().read_response(*arguments, **options)  # type: ignore[misc]
            for each in reply if isinstance(reply, list) else ():
                if isinstance(each, ReadOnlyError | NoPermissionError):
                    raise each
        except (ReadOnlyError, NoPermissionError) as error:
            self.disconnect()  # type: ignore[attr-defined]
            raise StoreConnectionError(f"{error.status_code} {error}") from error
        return reply


class BrokerConnection(_RefusalsEndIt, FollowingConnection):
    """Over TCP."""


class BrokerTlsConnection(_RefusalsEndIt, FollowingTlsConnection):
    """Over TLS."""
