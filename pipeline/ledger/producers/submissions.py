"""Submissions: requests as they go to the ledger, and what it answers."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from pipeline.contracts.cache_keys import cache_keys
from pipeline.contracts.canonical import digest
from pipeline.contracts.envelope import ScoreRequest
from pipeline.contracts.ids import random_tails
from pipeline.contracts.problems import InvalidRequest, Problem
from pipeline.contracts.releases import Release, ReleaseTable
from pipeline.contracts.stages import Priority
from pipeline.contracts.status import Status
from pipeline.contracts.tenants import NOBODY, Tenant
from pipeline.contracts.work import Header, Links, Progress
from pipeline.ledger.records import (
    ACCEPTED,
    MEMBER_PAYLOAD,
    Entry,
    pack_features,
    pack_prefix,
    status_of,
    unpack_entry,
)
from pipeline.ledger.result_cache import CacheReader
from pipeline.settings import Settings

DEDUP_TOKEN_S = 120
"""For so long the ledger knows what it has answered to a batch."""


@dataclass(slots=True)  # not frozen: there is one for each request, and frozen ones take three times as long to make
class Submission:
    """One scoring request, its envelope checked."""

    model: str
    features: Mapping[str, Any]
    priority: Priority = Priority.NORMAL
    timeout_ms: int = 3_600_000
    allow_degraded: bool = True
    key: bytes = b""
    """The producer's key and this request, as ``idempotency`` gives them; empty without a key."""
    no_cache: bool = False
    """Compute it again, and for this request alone."""
    tenant: bytes = NOBODY
    """Its tenant's id."""


def submission_of(request: ScoreRequest, key: str | None, tenant: Tenant, *, no_cache: bool) -> Submission:
    """The submission of a checked request. ``key``: its idempotency key, which is ``tenant``'s own."""
    keyed = b""
    if key is not None:
        keyed = idempotency(tenant.name, key, request.model, request.features, request.priority, request.timeout_s)
    return Submission(
        request.model,
        request.features,
        Priority.of(request.priority),
        round(request.timeout_s * 1000),
        request.allow_degraded,
        keyed,
        no_cache,
        tenant.id,
    )


def idempotency(
    tenant: str, key: str, model: str, features: Mapping[str, Any], priority: str, timeout_s: float
) -> bytes:
    """The digests of a tenant's idempotency key and of the body that it stands for; 16 bytes each.

    ``tenant`` is its name. Two bodies are the same if their RFC 8785 texts are; see ``contracts.canonical``.
    """
    try:
        seconds = int(timeout_s) if timeout_s == int(timeout_s) else timeout_s  # the form that it would be given
        return digest(tenant, key) + digest(model, features, priority, seconds)
    except (TypeError, ValueError) as error:
        message = f"cannot be compared: {error}"
        raise InvalidRequest(f"features {message}", errors=[{"pointer": "/features", "message": message}]) from error


@dataclass(slots=True)
class Known:
    """A request that may have ended: read it. Its idempotency key was known, or the cache had its answer."""

    id: bytes


@dataclass(slots=True)
class Accepted:
    """A request that is in the ledger now, and will end."""

    id: bytes
    header: Header
    joined: bool = False
    end: bytes | None = None
    """Its record, if the cache had its answer."""

    def status(self) -> Status:
        """Its status document at this moment, without reading it back."""
        entry = Entry(ACCEPTED, self.header, Progress(0), None, pack_prefix(self.header))
        status = status_of(self.id, unpack_entry(self.end) if self.end else entry)
        status["joined"] = self.joined
        return status


@dataclass(slots=True)
class _Row:
    """One request of a batch: its index there, what is sent of it, and its end if the cache had its answer."""

    index: int
    header: Header
    tail: bytes
    scoring: str
    record: bytes
    cache_key: bytes
    key: bytes
    tenant: bytes
    end: bytes | None = None


class _Kind(NamedTuple):
    """What is pinned for all submissions of one model, priority, timeout and tenant."""

    release: Release
    header: Header
    cache_key: Callable[[Mapping[str, Any]], bytes]


def _pin(release: Release, submission: Submission, *, shared: bool) -> _Kind:
    """Pin the release for such submissions. ``shared``: all tenants share their answers."""
    header = Header(
        release.name,
        release.version,
        bytes.fromhex(release.digest),
        release.pool,
        int(submission.priority),
        submission.timeout_ms,
        0,
        submission.allow_degraded,
        release.cache_s,
    )
    tenant = NOBODY if shared else submission.tenant
    return _Kind(release, header, cache_keys(release.ref, allow_degraded=submission.allow_degraded, tenant=tenant))


class SubmissionBatch:
    """Up to ``SCRIPT_LIMIT`` requests on their way. However often the batch is sent, each is accepted once."""

    def __init__(self, submissions: Sequence[Submission]) -> None:
        self.submissions = submissions
        self.dedup_token = os.urandom(16)
        # The ids are these and the time that the ledger notes beside the dedup token, however often the batch is sent.
        self._tails = random_tails(len(submissions))
        self.sendings = 0
        self.packed = False
        self.looked_up = False

    def pack(self, table: ReleaseTable, settings: Settings) -> None:
        """Pin each request's model version and pack it, or note why it cannot be."""
        self.epoch = table.epoch
        self.refused: list[Problem | None] = [None] * len(self.submissions)
        self.sent: list[_Row] = []
        self.head: list[Any] = [
            table.epoch,
            settings.max_waiting,
            self.dedup_token,
            DEDUP_TOKEN_S * 1000,
            round(settings.result_ttl * 1000),
            round(settings.idempotency_ttl * 1000),
            MEMBER_PAYLOAD,
            1000 / settings.tenant_rate if settings.tenant_rate else 0,
            settings.tenant_in_flight,
        ]
        kinds: dict[tuple[str, int, int, bool, bytes], _Kind] = {}
        for index, (submission, tail) in enumerate(zip(self.submissions, self._tails, strict=True)):
            try:
                kind = (
                    submission.model,
                    submission.priority,
                    submission.timeout_ms,
                    submission.allow_degraded,
                    submission.tenant,
                )
                if kind not in kinds:
                    kinds[kind] = _pin(table.resolve(submission.model), submission, shared=settings.share_results)
                release, header, cache_key = kinds[kind]
                packed = pack_features(submission.features, release.feature_names)
                shared = b"" if submission.no_cache else cache_key(submission.features)
            except Problem as problem:
                self.refused[index] = problem
                continue
            tenant = submission.tenant
            record = pack_prefix(header, Links(b"", submission.key, shared, tenant)) + packed
            cacheable = shared if release.cache_s else b""
            self.sent.append(_Row(index, header, tail, release.scoring_lane, record, cacheable, submission.key, tenant))
        self.packed, self.looked_up = True, False

    async def look_up(self, cache: CacheReader) -> None:
        """End those requests at once whose answers the cache has."""
        rows = [row for row in self.sent if row.cache_key]
        hits = await cache.look([row.cache_key for row in rows]) if rows else ()
        for row, hit in zip(rows, hits, strict=True):
            if hit is not None:
                row.end = hit.record(row.header, Links(key=row.key, tenant=row.tenant))
        self.looked_up = True

    def arguments(self) -> list[Any]:
        """The arguments of the accept script, for one more sending."""
        self.sendings += 1
        arguments = [*self.head, "1" if self.sendings > 1 else "0"]
        for row in self.sent:
            scoring, record = ("", row.end) if row.end else (row.scoring, row.record)
            arguments += row.tail, scoring, row.header.priority, row.header.timeout_ms, record
        return arguments
