"""The sweeper's side of the ledger: everything that must happen when nobody else is there to do it."""

import json
from collections.abc import Iterable

from pipeline.contracts.lanes import ModelRef
from pipeline.contracts.stages import Stage, State
from pipeline.contracts.status import Failure
from pipeline.ledger import keys
from pipeline.ledger.connection import Client
from pipeline.ledger.records import End, Entry, end_of, unpack_attempts, unpack_entry
from pipeline.ledger.scripts import Scripts
from pipeline.settings import Settings


class Sweeping:
    """One sweep's steps. Each is safe to run twice, and by two sweepers at once."""

    def __init__(self, client: Client, settings: Settings) -> None:
        self._client = client
        self._settings = settings
        self._scripts = Scripts(client)

    def lead(self, name: str) -> bool:
        """Take or keep the lead for three seconds; False if another sweeper has it."""
        if self._client.set(keys.LEADER, name, nx=True, px=3000):
            return True
        if self._client.get(keys.LEADER) != name.encode():
            return False
        self._client.pexpire(keys.LEADER, 3000)
        return True

    def server_ms(self) -> float:
        """The server's time (Unix milliseconds)."""
        seconds, micros = self._client.time()
        return seconds * 1000 + micros / 1000

    def revive_due_retries(self) -> int:
        """Put retries that are due back into their lanes; how many."""
        return int(self._scripts.revive())

    def release_dead_workers(self) -> list[tuple[str, int]]:
        """Fence workers whose heartbeat stopped and release their claims: (incarnation, requests released) each."""
        silent_ms = round(self._settings.lease_ttl_s * 1000)
        before = self.server_ms() - silent_ms
        released = []
        for incarnation in self._client.zrangebyscore(keys.BEATS, "(0", before):
            name = incarnation.decode()
            count = self._scripts.release(args=[name, "", "loss", "the worker vanished", "", 0, "1", silent_ms])
            if count >= 0:
                released.append((name, count))
        return released

    def release_overdue_batches(self) -> int:
        """Release batches that run past the hard limit although their worker beats; how many requests."""
        overdue_ms = round(self._settings.hard_limit_s * 1000) + 5000
        released = 0
        for incarnation in self._client.zrangebyscore(keys.BEATS, "(0", "+inf"):
            reason = f"ran longer than the hard limit of {self._settings.hard_limit_s:g} s"
            released += self._scripts.release(args=[incarnation, "", "start", reason, "", overdue_ms, "0", 0])
        return released

    def forget_dead_workers(self, *, after_s: float = 600) -> None:
        """Drop the descriptions of fenced workers some minutes after they died."""
        now = self.server_ms()
        for incarnation in self._client.zrangebyscore(keys.BEATS, 0, 0):
            description = json.loads(self._client.hget(keys.WORKERS, incarnation) or b"{}")
            if now - description.get("started_ms", 0) > after_s * 1000:
                # Its claims go with its name; there are none, or release would have kept them.
                self._client.zrem(keys.BEATS, incarnation)
                self._client.hdel(keys.WORKERS, incarnation)

    def expire_deadlines(self) -> int:
        """End requests whose deadline has passed before scoring claimed them; how many."""
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
        blobs = self._client.mget([keys.record(request_id) for request_id in due])
        attempts = self._client.hmget(keys.ATTEMPTS, due)
        now = self.server_ms()
        arguments: list[object] = [round(self._settings.result_ttl * 1000), str(State.EXPIRED), "1"]
        for request_id, blob, tried in zip(due, blobs, attempts, strict=True):
            entry, errors = unpack_entry(blob), unpack_attempts(tried).errors
            last = f"; the last attempt failed: {errors[-1].error}" if errors else ""
            message = f"not scored within its timeout of {entry.header.timeout_ms / 1000:g} s{last}"
            error = Failure(category="deadline", stage=None, message=message, retryable=True)
            end = End(now, None, error, unpack_attempts(tried).starts)
            arguments += finish_arguments(request_id, entry, State.EXPIRED, end)
        return sum(self._scripts.finish(args=arguments))

    def lanes_with_work(self) -> list[str]:
        """Lanes in which anything waits."""
        lanes = [lane.decode() for lane in self._client.zrange(keys.LANES, 0, -1)]
        pipe = self._client.pipeline(transaction=False)
        for lane in lanes:
            pipe.zcard(keys.waiting(lane))
        return [lane for lane, waiting in zip(lanes, pipe.execute(), strict=True) if waiting]

    def ring_idle(self, lanes: Iterable[str]) -> list[str]:
        """Ring those of ``lanes`` that nobody has claimed from for ``lane_idle_s``; which they were."""
        idle_ms = round(self._settings.lane_idle_s * 1000)
        return [lane for lane in lanes if self._scripts.ring(args=[lane, idle_ms])]

    def settled_totals(self) -> dict[str, int]:
        """How many requests each stage has settled so far."""
        totals = self._client.hmget(keys.COUNTS, [f"{stage}:settled" for stage in Stage])
        return {str(stage): int(total or 0) for stage, total in zip(Stage, totals, strict=True)}

    def write_rates(self, rates: dict[str, float]) -> None:
        """Publish requests settled per second for each stage."""
        self._client.hset(keys.RATES, mapping={stage: f"{rate:.3f}" for stage, rate in rates.items()})


def finish_arguments(request_id: bytes, entry: Entry, state: State, end: End) -> tuple[object, ...]:
    """One request's arguments for the finish script."""
    ref: ModelRef = entry.header.ref
    return (
        request_id,
        ref.lane(Stage.PREPROCESS),
        ref.lane(Stage.SCORING),
        end_of(state, entry.header, entry.carry, end),
    )
