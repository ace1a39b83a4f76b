"""What a call may be refused for: an exception each, all of them a ``Problem``.

``slug`` names it on the wire, ``detail`` says what is wrong; ``retry_after_s`` is set where the same call may succeed
later. ``errors`` points at the wrong parts of a request.
"""

from pipeline.contracts.problems import (
    AlreadyEnded,
    BodyTooLarge,
    DeadlineExceeded,
    DeadlineUnreachable,
    Degraded,
    Forbidden,
    Gone,
    IdempotencyMismatch,
    InvalidRequest,
    MalformedJson,
    NotDead,
    NotFound,
    Overloaded,
    Problem,
    RateLimited,
    StoreFull,
    StoreUnavailable,
    TooLate,
    Unauthorized,
    UnknownModel,
)

__all__ = [
    "AlreadyEnded",
    "BodyTooLarge",
    "DeadlineExceeded",
    "DeadlineUnreachable",
    "Degraded",
    "Forbidden",
    "Gone",
    "IdempotencyMismatch",
    "InvalidRequest",
    "MalformedJson",
    "NotDead",
    "NotFound",
    "Overloaded",
    "Problem",
    "RateLimited",
    "StoreFull",
    "StoreUnavailable",
    "TooLate",
    "Unauthorized",
    "UnknownModel",
]
