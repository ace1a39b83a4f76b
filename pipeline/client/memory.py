"""What the fake clients share: requests in memory instead of a store, scored by a function instead of workers."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline.client.core import has_ended
from pipeline.client.limits import CLOSED
from pipeline.client.streaming import Request
from pipeline.contracts.envelope import ScoreRequest, ScoreRow, check_envelope, check_key, check_row
from pipeline.contracts.failures import InvalidInput
from pipeline.contracts.ids import parse_id, random_tails
from pipeline.contracts.problems import AlreadyEnded, IdempotencyMismatch, NotFound, Problem
from pipeline.contracts.releases import Release, ReleaseTable
from pipeline.contracts.stages import Priority, State
from pipeline.contracts.status import Failure, Status
from pipeline.contracts.work import Header, Progress
from pipeline.ledger.producers.submissions import Accepted, idempotency
from pipeline.ledger.records import End, Entry, pack_prefix
from pipeline.ledger.status_documents import status_of

Score = Callable[[str, Mapping[str, Any]], dict[str, Any]]


class Memory:
    """Requests in memory, and what a store and its workers would do with them. See ``FakeScoringClient``."""

    def __init__(self, score: Score, *, held: bool = False, releases: Sequence[Release] = ()) -> None:
        self._score = score
        self._held = held
        self._table = ReleaseTable(
            b"0",
            {release.name: release.version for release in releases},
            {(release.name, release.version): release for release in releases},
        )
        self._keys: dict[bytes, tuple[bytes, str]] = {}
        self._accepted: dict[str, tuple[bytes, Header, dict[str, Any] | Exception]] = {}
        self._statuses: dict[str, Status] = {}
        self._closed = False
        self.submitted: list[ScoreRequest] = []

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

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError(CLOSED)

    def _submit(self, document: dict[str, Any], idempotency_key: str | None = None) -> Status:
        self._check_open()
        key = None if idempotency_key is None else check_key(idempotency_key)
        return self._accept(check_envelope(document), key)

    def _submit_row(self, request: Request) -> Status | Problem:
        self._check_open()
        try:
            row = request if isinstance(request, ScoreRequest) else check_row(request)
            return self._accept(row, row.idempotency_key if isinstance(row, ScoreRow) else None)
        except Problem as problem:
            return problem

    def _score_row(self, request: Request) -> Status | Problem:
        answer = self._submit_row(request)
        return answer if isinstance(answer, Problem) else self._get(answer["request_id"])

    def _get(self, request_id: str) -> Status:
        self._check_open()
        parse_id(request_id)
        if request_id not in self._statuses:
            raise NotFound(f"no request {request_id}")
        if not self._held and not has_ended(self._statuses[request_id]):
            self.finish(request_id)
        return self._statuses[request_id]

    def _get_many(self, request_ids: Sequence[str]) -> list[Status | Problem]:
        self._check_open()
        answers: list[Status | Problem] = []
        for request_id in request_ids:
            try:
                answers.append(self._get(request_id))
            except NotFound as missing:
                answers.append(missing)
        return answers

    def _cancel(self, request_id: str) -> Status:
        self._check_open()
        known = self._statuses.get(request_id)
        if known is not None and not has_ended(known):
            self._end(request_id, State.CANCELLED, None, "cancelled", "cancelled through the store")
        status = self._get(request_id)
        if status["state"] != "cancelled":
            raise AlreadyEnded(f"{request_id} has ended: {status['state']}")
        return status

    def _releases(self) -> ReleaseTable:
        self._check_open()
        return self._table

    def _accept(self, request: ScoreRequest, key: str | None) -> Status:
        keyed = b""
        if key is not None:
            keyed = idempotency("", key, request.model, request.features, request.priority, request.timeout_s)
            body, known = self._keys.get(keyed[:16], (b"", ""))
            if known and body != keyed[16:]:
                raise IdempotencyMismatch("this idempotency key stands for a request with another body: use a new one")
            if known:
                return self._get(known)
        outcome: dict[str, Any] | Exception
        try:
            outcome = self._score(request.model, request.features)
        except Problem:
            raise
        except Exception as error:  # noqa: BLE001 - as a stage that raises: it shows when the request ends
            outcome = error
        name, _, version = request.model.partition("@")
        priority, timeout_ms = Priority.of(request.priority), round(request.timeout_s * 1000)
        version = version or self._table.current.get(name, "1")
        header = Header(name, version, bytes(32), "", priority, timeout_ms, 0, request.allow_degraded)
        request_id = round(time.time() * 1000).to_bytes(6, "big") + random_tails(1)[0]
        status = Accepted(request_id, header).status()
        text = status["request_id"]
        self._accepted[text], self._statuses[text] = (request_id, header, outcome), status
        self.submitted.append(request)
        if keyed:
            self._keys[keyed[:16]] = (keyed[16:], text)
        return status

    def _end(self, text: str, state: State, result: dict[str, Any] | None, category: str, message: str) -> None:
        request_id, header, _ = self._accepted[text]
        error = None
        if state is not State.SUCCEEDED:
            error = Failure(category=category, stage=None, message=message, retryable=False)
        scored_by = f"{header.model}@{header.version}" if state is State.SUCCEEDED else None
        end = End(time.time() * 1000, result, error, 1, scored_by)
        self._statuses[text] = status_of(request_id, Entry(str(state), header, Progress(0), end, pack_prefix(header)))
