"""A client for users' own tests: the methods of ``ScoringClient``, answered from memory. No store, no threads."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from pipeline.client.asynchronous import Request
from pipeline.client.core import has_ended
from pipeline.client.limits import CLOSED
from pipeline.contracts.envelope import (
    DEFAULT_TIMEOUT_S,
    PriorityName,
    ScoreRequest,
    check_envelope,
    check_key,
    check_row,
)
from pipeline.contracts.failures import InvalidInput
from pipeline.contracts.ids import from_text, random_tails
from pipeline.contracts.problems import AlreadyEnded, IdempotencyMismatch, InvalidRequest, NotFound, Problem
from pipeline.contracts.stages import Priority, State
from pipeline.contracts.status import Failure, Status
from pipeline.contracts.work import Header, Progress
from pipeline.ledger.producers.submissions import Accepted, idempotency
from pipeline.ledger.records import End, Entry, pack_prefix, status_of

Score = Callable[[str, Mapping[str, Any]], dict[str, Any]]


class FakeScoringClient:
    """Answers every request with ``score(model, features)``.

    ``score`` returns the result; or raises InvalidInput (``pipeline.contracts.failures``) to end it as ``invalid``, a
    Problem to have it refused, anything else to end it as ``dead``. With ``held`` requests stay queued until ``finish``
    is called with their ids. ``submitted`` lists what was accepted.
    """

    def __init__(self, score: Score, *, held: bool = False) -> None:
        self._score = score
        self._held = held
        self._keys: dict[bytes, tuple[bytes, str]] = {}
        self._accepted: dict[str, tuple[bytes, Header, dict[str, Any] | Exception]] = {}
        self._statuses: dict[str, Status] = {}
        self._closed = False
        self.submitted: list[ScoreRequest] = []

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

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError(CLOSED)

    def submit(
        self,
        model: str,
        features: Mapping[str, Any],
        *,
        priority: PriorityName = "normal",
        timeout_s: float = DEFAULT_TIMEOUT_S,
        allow_degraded: bool = True,
        no_cache: bool = False,  # noqa: ARG002 - it keeps nothing
        idempotency_key: str | None = None,
    ) -> Status:
        """Hand in one request; its status as accepted. It ends when it is read next, unless it is held."""
        self._check_open()
        document = {
            "model": model,
            "features": features,
            "priority": priority,
            "timeout_s": timeout_s,
            "allow_degraded": allow_degraded,
        }
        key = None if idempotency_key is None else check_key(idempotency_key)
        return self._accept(check_envelope(document), key)

    def submit_many(self, requests: Iterable[Request]) -> Iterator[Status | Problem]:
        """Hand in any number of requests; for each, in order, its status or the problem it was refused for."""
        self._check_open()
        return self._submit_each(requests)

    def _submit_each(self, requests: Iterable[Request]) -> Iterator[Status | Problem]:
        for request in requests:
            self._check_open()
            try:
                row = request if isinstance(request, ScoreRequest) else check_row(request)
                yield self._accept(row, getattr(row, "idempotency_key", None))
            except Problem as problem:
                yield problem

    def score_many(self, requests: Iterable[Request], *, window: int = 8192) -> Iterator[Status | Problem]:  # noqa: ARG002
        """Hand in any number of requests; the end of each, in order."""
        answers = self.submit_many(requests)
        return (answer if isinstance(answer, Problem) else self.get(answer["request_id"]) for answer in answers)

    def get(self, request_id: str) -> Status:
        """How a request stands; NotFound, InvalidRequest (malformed id)."""
        self._check_open()
        try:
            from_text(request_id)
        except ValueError as error:
            raise InvalidRequest(str(error), errors=[{"pointer": "/request_id", "message": str(error)}]) from None
        if request_id not in self._statuses:
            raise NotFound(f"no request {request_id}")
        if not self._held and not has_ended(self._statuses[request_id]):
            self.finish(request_id)
        return self._statuses[request_id]

    def get_many(self, request_ids: Sequence[str]) -> list[Status | Problem]:
        """How many requests stand, in order."""
        self._check_open()
        answers: list[Status | Problem] = []
        for request_id in request_ids:
            try:
                answers.append(self.get(request_id))
            except NotFound as missing:
                answers.append(missing)
        return answers

    def wait(self, request_id: str, timeout_s: float = 30.0) -> Status:  # noqa: ARG002
        """The status once the request has ended; as it stands at once if it is held."""
        return self.get(request_id)

    def cancel(self, request_id: str) -> Status:
        """End a request that is held."""
        self._check_open()
        known = self._statuses.get(request_id)
        if known is not None and not has_ended(known):
            self._end(request_id, State.CANCELLED, None, "cancelled", "cancelled through the store")
        status = self.get(request_id)
        if status["state"] != "cancelled":
            raise AlreadyEnded(f"{request_id} has ended: {status['state']}")
        return status

    def score(
        self, model: str, features: Mapping[str, Any], *, timeout_s: float = 30.0, priority: PriorityName = "normal"
    ) -> Status:
        """Submit and wait: the end of the request."""
        return self.get(self.submit(model, features, timeout_s=timeout_s, priority=priority)["request_id"])

    def finish(self, *request_ids: str) -> None:
        """Let held requests end."""
        for request_id in request_ids:
            outcome = self._accepted[request_id][2]
            if isinstance(outcome, InvalidInput):
                self._end(request_id, State.INVALID, None, outcome.category, str(outcome))
            elif isinstance(outcome, Exception):
                self._end(request_id, State.DEAD, None, "unknown", f"{type(outcome).__name__}: {outcome}")
            else:
                self._end(request_id, State.SUCCEEDED, outcome, "", "")

    def _accept(self, request: ScoreRequest, key: str | None) -> Status:
        held = b""
        if key is not None:
            held = idempotency("", key, request.model, request.features, request.priority, request.timeout_s)
            body, known = self._keys.get(held[:16], (b"", ""))
            if known and body != held[16:]:
                raise IdempotencyMismatch("this idempotency key stands for a request with another body: use a new one")
            if known:
                return self.get(known)
        outcome: dict[str, Any] | Exception
        try:
            outcome = self._score(request.model, request.features)
        except Problem:
            raise
        except Exception as error:  # noqa: BLE001 - as a stage that raises: it shows when the request ends
            outcome = error
        name, _, version = request.model.partition("@")
        priority, timeout_ms = Priority.of(request.priority), round(request.timeout_s * 1000)
        header = Header(name, version or "1", bytes(32), "", priority, timeout_ms, 0, request.allow_degraded)
        request_id = round(time.time() * 1000).to_bytes(6, "big") + random_tails(1)[0]
        status = Accepted(request_id, header).status()
        text = status["request_id"]
        self._accepted[text], self._statuses[text] = (request_id, header, outcome), status
        self.submitted.append(request)
        if held:
            self._keys[held[:16]] = (held[16:], text)
        return status

    def _end(self, text: str, state: State, result: dict[str, Any] | None, category: str, message: str) -> None:
        request_id, header, _ = self._accepted[text]
        error = None
        if state is not State.SUCCEEDED:
            error = Failure(category=category, stage=None, message=message, retryable=False)
        scored_by = f"{header.model}@{header.version}" if state is State.SUCCEEDED else None
        end = End(time.time() * 1000, result, error, 1, scored_by)
        self._statuses[text] = status_of(request_id, Entry(str(state), header, Progress(0), end, pack_prefix(header)))
