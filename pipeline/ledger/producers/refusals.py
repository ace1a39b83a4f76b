"""Refusals: the problem for each code of ``accept.lua`` that is no acceptance."""

from collections.abc import Callable
from math import ceil

from pipeline.contracts.problems import (
    DeadlineUnreachable,
    Degraded,
    IdempotencyMismatch,
    Overloaded,
    Problem,
    RateLimited,
    StoreFull,
)
from pipeline.contracts.work import Header
from pipeline.settings import Settings

FILL = 0.8
"""As in ``admission.lua``."""
LONGEST_PAUSE_S = 60
"""What a producer is asked to wait at most before it sends again."""


def refusal(code: bytes, number: bytes, unfinished: int, header: Header, settings: Settings) -> Problem:
    """The problem for ``code``. ``number``: what stands in place of an id, for some codes milliseconds.

    ``unfinished``: requests in the ledger that have not ended.
    """
    return _REFUSALS[code](number, unfinished, header, settings)


def _too_fast(number: bytes, _: int, __: Header, settings: Settings) -> Problem:
    detail = f"this API key may send {settings.tenant_rate:g} requests per second"
    return RateLimited(detail, retry_after_s=_pause(int(number) / 1000))


def _too_many(_: bytes, __: int, ___: Header, settings: Settings) -> Problem:
    detail = f"this API key has {settings.tenant_in_flight} unfinished requests, as many as it may have"
    return RateLimited(detail, retry_after_s=1)


def _unreachable(number: bytes, _: int, header: Header, __: Settings) -> Problem:
    wait_s, timeout_s = int(number) / 1000, header.timeout_ms / 1000
    detail = f"what waits before it takes about {wait_s:.1f} s, more than {FILL:.0%} of its timeout of {timeout_s:g} s"
    pause_s = _pause(wait_s - FILL * timeout_s)
    return DeadlineUnreachable(f"{detail}: send it later, or with more time", retry_after_s=pause_s)


def _full(_: bytes, unfinished: int, __: Header, settings: Settings) -> Problem:
    return Overloaded(f"{unfinished} requests are unfinished, the limit is {settings.max_waiting}")


def _pause(seconds: float) -> int:
    return min(LONGEST_PAUSE_S, max(1, ceil(seconds)))


_REFUSALS: dict[bytes, Callable[[bytes, int, Header, Settings], Problem]] = {
    b"m": lambda *_: IdempotencyMismatch("this idempotency key stands for a request with another body: use a new one"),
    b"s": lambda *_: StoreFull("the store is short of memory: accepted requests go on, send new ones later"),
    b"d": lambda *_: Degraded(
        "fewer than half of the expected scoring workers live: send it later, or with normal priority"
    ),
    b"f": _full,
    b"l": _too_fast,
    b"c": _too_many,
    b"u": _unreachable,
}
