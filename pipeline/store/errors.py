"""The store's errors: what to catch, and the problems that they are to a caller.

redis-py's exceptions are named here once, so that nothing but this room and the ledger imports redis.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from redis.exceptions import AuthenticationError as WrongCredentials
from redis.exceptions import ConnectionError as StoreConnectionError
from redis.exceptions import NoPermissionError, OutOfMemoryError, RedisError, ResponseError
from redis.exceptions import TimeoutError as StoreTimeoutError

from pipeline.contracts.problems import Problem, StoreFull, StoreUnavailable
from pipeline.store.client import Moved

__all__ = ["OUTAGES", "ResponseError", "StoreError", "WrongCredentials", "as_problem", "store_problems"]

StoreError = (RedisError, OSError)
"""For ``except``: whatever a call to the store raises, from an unknown host to a refused command."""
OUTAGES = (StoreConnectionError, StoreTimeoutError, OSError)
"""The store is away, or does not answer in time. Its other errors are about one call."""


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
