"""The steps of a sweeper's round: what must happen although no request, worker or client brings it about."""

import math
import time
from typing import Literal, NamedTuple

from redis.exceptions import NoPermissionError, ResponseError

from pipeline.contracts.ids import to_text
from pipeline.contracts.stages import Priority, State
from pipeline.contracts.status import Failure
from pipeline.contracts.work import Header, Links, Progress
from pipeline.ledger import keys
from pipeline.ledger.clock import server_ms
from pipeline.ledger.early_ends import end_early_arguments, end_early_head
from pipeline.ledger.records import ACCEPTED, End, Entry, pack_prefix, tenant_of, unpack_attempts, unpack_entry
from pipeline.ledger.recovery import fan_out, release_claims
from pipeline.ledger.scripts import Scripts
from pipeline.ledger.sweeper.lane_metrics import FIRSTS_S
from pipeline.settings import LONGER, Settings
from pipeline.store.connection import Client
from pipeline.telemetry.events.requests import TOLD, RequestExpired, RequestNotExpired, RequestsLeftOut
from pipeline.telemetry.events.sweepers import AppendOnlyFileNotRewritten, AppendOnlyFileRewritten, MemoryUnknown

MEMORY_FOR_CACHE, MEMORY_FOR_ACCEPT = 0.75, 0.85
"""Shares of the store's memory limit: above the first the cache takes no more results, above the second no request is
accepted."""

RETRY_SHARE, LEAST_RETRIES = 0.2, 10
"""The retry budget of a lane in ten seconds: this share of its first attempts, and at least so many."""

REFUSED_S = 60.0
"""How long after the server has refused INFO it is asked again."""

Shortage = Literal["", "memory_low", "memory_full"]


class Lead(NamedTuple):
    """The answer to a sweeper that asks for the lead.

    ``now_ms``: the ledger's time (Unix ms). ``behind_ms``: by how much the server's own clock is behind it.
    """

    leads: bool
    degraded: bool
    now_ms: int
    behind_ms: int


class Sweeping:
    """The steps of one sweeper. Each is safe to run twice, and by two sweepers at once."""

    def __init__(self, client: Client, settings: Settings) -> None:
        self._client = client
        self._settings = settings
        self._scripts = Scripts(client)
        self._log_failed = False
        self._refused = False
        self._ask_again_at = -math.inf

    def lead(
        self,
        name: str,
        *,
        shortage: Shortage = "",
        backlogs: str = "",
        degraded: bool = False,
        passed_s: float = 0,
    ) -> Lead:
        """Takes or keeps the lead for 1.5 seconds; ``leads`` is false if another sweeper has it.

        The leader publishes, for three seconds, whether the store is short of memory (``memory_low``: the cache takes
        no more results; ``memory_full``: no request is accepted either) and which lanes have a backlog (see
        ``lane_metrics``), and for ten seconds whether the mode is degraded. ``passed_s``: the time since its last
        round by its own clock.
        """
        published = [name, shortage, backlogs, "1" if degraded else "", round(1000 * passed_s)]
        leads, found, now_ms, behind_ms = self._scripts.elect(args=published)
        return Lead(bool(leads), bool(found), int(now_ms), int(behind_ms))

    def shortage(self) -> Shortage:
        """Returns whether the store is so near its memory limit that what is accepted already needs the rest.

        Where the store's user may not ask, it returns nothing: what remains is the bound on unfinished requests, and
        the store's own refusal at its limit.
        """
        if time.monotonic() < self._ask_again_at:
            return ""
        try:
            facts = self._client.info("memory", "persistence")
        except ResponseError as error:
            self._ask_again_at = time.monotonic() + REFUSED_S
            if not self._refused:
                self._refused = True
                MemoryUnknown(error=str(error), reason="INFO is refused: grant it, or watch the memory").emit()
            return ""
        self._refused = False
        self._rewrite_append_only_file(failing=facts.get("aof_last_write_status", "ok") != "ok")
        used, limit = facts.get("used_memory", 0), facts.get("maxmemory", 0)
        if not limit or used <= MEMORY_FOR_CACHE * limit:
            return ""
        return "memory_full" if used > MEMORY_FOR_ACCEPT * limit else "memory_low"

    def _rewrite_append_only_file(self, *, failing: bool) -> None:
        """Has the server rewrite its append-only file once the disk takes writes again after a failure.

        Valkey 9.1 cuts off what it could not write in whole, but goes on writing behind that: the file has a hole, and
        the server cannot load it. (It opens the file that follows a rewrite without O_APPEND.)
        """
        if failing:
            self._log_failed = True
        elif self._log_failed:
            try:
                self._client.bgrewriteaof()
            except ResponseError as error:
                if not isinstance(error, NoPermissionError) and "unknown command" not in str(error):
                    return  # a rewrite is under way, perhaps an earlier one: try again when it is done
                AppendOnlyFileNotRewritten(error=str(error), reason="send BGREWRITEAOF yourself").emit()
            else:
                AppendOnlyFileRewritten().emit()
            self._log_failed = False

    def server_ms(self) -> float:
        """Asks for the ledger's time, in Unix milliseconds."""
        return server_ms(self._client)

    def requeue_due_retries(self) -> tuple[int, int]:
        """Puts due retries back into their lanes; returns how many were due, and how many their budget held back."""
        due, held_back = self._scripts.requeue_due(args=[round(1000 * FIRSTS_S), RETRY_SHARE, LEAST_RETRIES])
        return due, held_back

    def release_dead_workers(self) -> list[tuple[str, int]]:
        """Fences workers whose heartbeat stopped and releases their claims: (incarnation, requests released) each.

        Workers that were fenced earlier are included: the sweeper that fenced them may have died, or got no answer,
        before it released their claims.
        """
        silent_ms = round(self._settings.lease_ttl_s * 1000)
        silent = self._client.zrangebyscore(keys.BEATS, "(0", self.server_ms() - silent_ms)
        # All are fenced before the first is released: its work must not go to another worker that is dead as well.
        fenced = self._scripts.fence(args=[silent_ms, *silent]) if silent else []
        dead = self._client.zrangebyscore(keys.BEATS, "-inf", 0)
        pipe = self._client.pipeline(transaction=False)
        for incarnation in dead:
            pipe.exists(keys.claims(incarnation.decode()))
        holding = [incarnation for incarnation, holds in zip(dead, pipe.execute(), strict=True) if holds]
        released = []
        for name in sorted({incarnation.decode() for incarnation in (*fenced, *holding)}):
            count = release_claims(self._scripts, name, charge="loss", reason="the worker vanished", fence=True)
            released.append((name, count))
        return released

    def overdue_s(self, *, longer: bool) -> float:
        """Returns for how many seconds a batch may be claimed. ``longer``: it may have begun in degraded mode."""
        # A parent kills its child at the hard limit; this is for parents that do not. A batch may wait for another one.
        return 2 * self._settings.hard_limit_s * (LONGER if longer else 1) + 5

    def release_overdue_batches(self, *, longer: bool = False) -> int:
        """Releases batches that overran the hard limit although their worker's heartbeat goes on.

        Returns how many requests were released. ``longer``: they may have begun in degraded mode.
        """
        overdue_ms = round(1000 * self.overdue_s(longer=longer))
        released = 0
        for incarnation in self._client.zrangebyscore(keys.BEATS, "(0", "+inf"):
            reason = f"ran longer than the hard limit of {self._settings.hard_limit_s:g} s"
            name = incarnation.decode()
            released += release_claims(
                self._scripts, name, charge="start", reason=reason, category="hang", older_ms=overdue_ms
            )
        return released

    def forget_dead_workers(self, *, after_s: float = 600) -> None:
        """Deletes the descriptions of workers that died ``after_s`` ago or earlier, unless they still hold claims."""
        dead_since = self.server_ms() - after_s * 1000
        for incarnation in self._client.zrangebyscore(keys.BEATS, -dead_since, 0):
            if not self._client.exists(keys.claims(incarnation.decode())):
                self._client.hdel(keys.WORKERS, incarnation)
                self._client.zrem(keys.BEATS, incarnation)

    def expire_deadlines(self) -> int:
        """Ends a page of requests whose deadline passed before scoring claimed them; returns how many."""
        due = self._client.zrange(
            keys.OPEN,
            "-inf",
            str(self.server_ms()),
            byscore=True,
            offset=0,
            num=keys.SCRIPT_LIMIT,
        )
        if not due:
            return 0
        try:
            return self._expire(due)
        except ResponseError:
            # One request that cannot be ended must not keep the others open.
            return sum(self._expire_alone(request_id) for request_id in due)

    def _expire_alone(self, request_id: bytes) -> int:
        try:
            return self._expire([request_id])
        except ResponseError as error:
            RequestNotExpired(request_id=to_text(request_id), error=str(error)).emit()
            return 0

    def _expire(self, due: list[bytes]) -> int:
        blobs = self._client.mget([keys.record(request_id) for request_id in due])
        entries = [_readable(blob) for blob in blobs]
        flights = [entry.links.flight or request_id for entry, request_id in zip(entries, due, strict=True)]
        attempts = self._client.hmget(keys.ATTEMPTS, flights)
        now = self.server_ms()
        arguments = end_early_head(self._settings, State.EXPIRED, only_late=True)
        expired: list[RequestExpired] = []
        for request_id, entry, tried in zip(due, entries, attempts, strict=True):
            errors = unpack_attempts(tried).errors
            last = f"; the last attempt failed: {errors[-1].error}" if errors else ""
            message = f"not scored within its timeout of {entry.header.timeout_ms / 1000:g} s{last}"
            error = Failure(category="deadline", stage=None, message=message, retryable=True)
            end = End(now, None, error, unpack_attempts(tried).starts)
            expired.append(_expired(request_id, entry, end))
            arguments += end_early_arguments(request_id, entry, State.EXPIRED, end)
        ended = self._scripts.end_early(args=arguments)
        _report_expired([each for each, now_ended in zip(expired, ended, strict=True) if now_ended])
        return sum(ended)

    def fan_out_flights(self) -> int:
        """Gives outcomes to members of flights whose worker died before all had theirs; returns how many got one."""
        flights = self._client.hkeys(keys.FANOUT)
        return sum(fan_out(self._scripts, self._settings, flight) for flight in flights)

    def lanes_with_work(self) -> list[str]:
        """Returns the lanes in which anything waits."""
        lanes = [lane.decode() for lane in self._client.zrange(keys.LANES, 0, -1)]
        pipe = self._client.pipeline(transaction=False)
        for lane in lanes:
            pipe.zcard(keys.waiting(lane))
        return [lane for lane, waiting in zip(lanes, pipe.execute(), strict=True) if waiting]

    def ring_idle(self, lane: str, *, unless_bells_wait: bool = False) -> str:
        """Rings a lane from which no worker has claimed for ``lane_idle_s``, and returns what it found.

        ``rung``; ``empty``: nothing waits; ``served``: a worker claimed recently; ``bells`` (only with
        ``unless_bells_wait``): a bell waits in its queue already.
        """
        idle_ms = round(self._settings.lane_idle_s * 1000)
        return str(self._scripts.ring(args=[lane, idle_ms, "1" if unless_bells_wait else "0"]).decode())

    def trim_dead_letters(self) -> None:
        """Deletes dead letters that are too old, and the oldest of those that are too many."""
        self._scripts.trim_dead_letters(args=[round(self._settings.dead_max_age * 1000), self._settings.dead_max_count])


def _expired(request_id: bytes, entry: Entry, end: End) -> RequestExpired:
    message = end.error["message"] if end.error else ""
    return RequestExpired(
        request_id=to_text(request_id), model=entry.header.ref.label, attempt=end.attempts, error=message
    )


def _report_expired(expired: list[RequestExpired]) -> None:
    """Emit one event for each, up to so many of a page."""
    for event in expired[:TOLD]:
        event.emit()
    if expired[TOLD:]:
        RequestsLeftOut(stage="", model="", requests=len(expired) - TOLD).emit()


def _readable(blob: bytes | None) -> Entry:
    """Returns a record; a stand-in for one that cannot be read, which must not keep the others open."""
    try:
        return unpack_entry(blob or b"")
    except (ValueError, TypeError):
        header = Header("unknown", "0", b"", "", Priority.LOW, 0, 0, True)
        return Entry(ACCEPTED, header, Progress(0), None, pack_prefix(header, Links(tenant=tenant_of(blob or b""))))
