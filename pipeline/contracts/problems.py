"""Problems: whatever a call can be refused for, one exception each (RFC 9457 on HTTP).

Each class carries its slug, HTTP status, title and the command line's exit code. An instance adds the detail of one
occurrence, and where it helps the fields that are wrong or when to try again.
"""

from typing import Any, ClassVar


class Problem(Exception):
    """A refusal with a reason. ``retry_after_s`` is set where sending the request again later can help."""

    slug: ClassVar[str]
    status: ClassVar[int]
    title: ClassVar[str]
    exit_code: ClassVar[int] = 1

    def __init__(
        self, detail: str, *, errors: list[dict[str, str]] | None = None, retry_after_s: int | None = None
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = errors
        self.retry_after_s = retry_after_s

    def document(self) -> dict[str, Any]:
        """The problem as ``application/problem+json``."""
        document: dict[str, Any] = {
            "type": f"urn:scoreline:problem:{self.slug}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
        }
        if self.errors is not None:
            document["errors"] = self.errors
        return document


class MalformedJson(Problem):
    """The body is not JSON."""

    slug, status, title, exit_code = "malformed-json", 400, "The body is not valid JSON", 2


class Unauthorized(Problem):
    """No key, or an unknown one."""

    slug, status, title, exit_code = "unauthorized", 401, "An API key is needed", 2


class Forbidden(Problem):
    """A known key that may not do this."""

    slug, status, title, exit_code = "forbidden", 403, "This key may not do that", 2


class UnknownModel(Problem):
    """No release of that name or version."""

    slug, status, title, exit_code = "unknown-model", 404, "No such model is released", 4


class NotFound(Problem):
    """No record of that id."""

    slug, status, title, exit_code = "not-found", 404, "There is no such thing", 4


class DeadlineExceeded(Problem):
    """The request expired while the caller waited."""

    slug, status, title = "deadline-exceeded", 408, "The request's deadline has passed"


class AlreadyEnded(Problem):
    """A cancel of a request that has ended otherwise."""

    slug, status, title, exit_code = "already-ended", 409, "The request's state does not allow that", 5


class TooLate(Problem):
    """Scoring has claimed the request: it can neither expire nor be cancelled any more."""

    slug, status, title, exit_code = "too-late", 409, "The request is being scored already", 5


class NotDead(AlreadyEnded):
    """A replay of a request that is not dead, or not any more."""


class Gone(Problem):
    """The result was kept for ``result_ttl`` and is gone."""

    slug, status, title, exit_code = "gone", 410, "The result is no longer kept", 4


class BodyTooLarge(Problem):
    """The body is over the limit."""

    slug, status, title, exit_code = "body-too-large", 413, "The body is too large", 2


class InvalidRequest(Problem):
    """The envelope of the request is wrong; ``errors`` point at what."""

    slug, status, title, exit_code = "invalid-request", 422, "The request is not valid", 2


class IdempotencyMismatch(Problem):
    """The idempotency key was used with another body."""

    slug, status, title, exit_code = "idempotency-mismatch", 422, "The idempotency key stands for another request", 2


class RateLimited(Problem):
    """This API key has sent too many requests recently, or has too many unfinished ones."""

    slug, status, title, exit_code = "rate-limited", 429, "Too many requests with this key", 3


class StoreUnavailable(Problem):
    """The store does not answer; what was sent may or may not have been accepted."""

    slug, status, title, exit_code = "store-unavailable", 503, "The store does not answer", 3

    def __init__(self, detail: str) -> None:
        super().__init__(detail, retry_after_s=1)


class StoreFull(Problem):
    """The store has no room for new requests; those accepted go on."""

    slug, status, title, exit_code = "store-full", 503, "The store is full", 3

    def __init__(self, detail: str) -> None:
        super().__init__(detail, retry_after_s=5)


class Overloaded(Problem):
    """As many requests wait as may."""

    slug, status, title, exit_code = "overloaded", 503, "Too many requests are waiting", 3

    def __init__(self, detail: str) -> None:
        super().__init__(detail, retry_after_s=2)


class DeadlineUnreachable(Problem):
    """What waits before the request takes longer than its timeout."""

    slug, status, title, exit_code = "deadline-unreachable", 503, "The request would not be done in time", 3


class Degraded(Problem):
    """Too few workers live: low priority is refused."""

    slug, status, title, exit_code = "degraded", 503, "Low priority is refused for now", 3

    def __init__(self, detail: str) -> None:
        super().__init__(detail, retry_after_s=5)
