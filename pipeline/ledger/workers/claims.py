"""The workers' side of the ledger: claim a batch, settle it, park for more."""

import dataclasses
import itertools
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pipeline.contracts.ids import accepted_ms
from pipeline.contracts.lanes import Lane, parse_lane
from pipeline.contracts.stages import FINAL_STATES, Priority, Stage, State, deadline_of
from pipeline.contracts.status import Failure
from pipeline.contracts.work import (
    NO_ATTEMPTS,
    Attempts,
    Completed,
    Ended,
    Header,
    Links,
    Outcome,
    Progress,
    RetryLater,
    Work,
)
from pipeline.ledger import keys
from pipeline.ledger.letters import pack_letter
from pipeline.ledger.records import (
    ACCEPTED,
    End,
    end_of,
    for_itself_alone,
    pack_attempts,
    pack_entry,
    pack_prefix,
    tenant_of,
    unpack_attempts,
    unpack_entry,
)
from pipeline.ledger.recovery import fan_out, release_claims
from pipeline.ledger.scripts import Scripts
from pipeline.settings import Settings
from pipeline.store.connection import Client


class Fenced(Exception):
    """This incarnation was swept for silence; what it held went to others. It needs a new name."""


class ClaimLost(Exception):
    """The batch was released while we worked on it; another worker has it, and nothing of ours was written."""


@dataclass(slots=True)
class Batch:
    """A claimed batch. ``claimed_ms`` is the server's time; ``clock`` ours at that moment (monotonic seconds).

    ``worked_ms``: how long its stage took. ``strays``: requests that stood in the lane although they are past its
    stage, because a script was stopped on its way (see ``lua/prelude/base.lua``): nobody runs them, and they go on from
    where they are when the batch is settled. ``unstorable``: how requests end whose output the ledger cannot hold;
    known once the batch is settled.
    """

    lane: Lane
    field: str
    incarnation: str
    claimed_ms: int
    clock: float
    works: list[Work]
    worked_ms: float = 0.0
    strays: list["_Stray"] = dataclasses.field(default_factory=list)
    unstorable: dict[bytes, Ended] = dataclasses.field(default_factory=dict)

    def server_ms(self) -> float:
        """The server's time now, to within the time the claim took."""
        return self.claimed_ms + (time.monotonic() - self.clock) * 1000


class _Stray(NamedTuple):
    """A request in a lane that it has left: its stored value, and the kind of that."""

    id: bytes
    score: bytes
    blob: bytes
    kind: str

    @property
    def forward(self) -> tuple[object, ...]:
        """What settle is told of an output of this stage."""
        return self.id, self.score, self.blob

    @property
    def end(self) -> tuple[object, ...]:
        """What settle is told of an end."""
        return self.id, self.kind, self.blob


INPUT_KINDS = {Stage.PREPROCESS: ACCEPTED, Stage.SCORING: str(Stage.PREPROCESS), Stage.POSTPROCESS: str(Stage.SCORING)}
"""The kind of value that is a stage's input."""


class _Waiter(NamedTuple):
    """A waiter on the list of a queue's idle workers (see join in lua/prelude/lanes.lua)."""

    incarnation: str
    wake: str
    entry: str


class Claims:
    """Claims for one process. ``name`` gives the incarnation that is beating now (its parent may have renamed it)."""

    def __init__(self, client: Client, settings: Settings, name: Callable[[], str]) -> None:
        self._client = client
        self._settings = settings
        self._scripts = Scripts(client)
        self._name = name
        self._numbers = itertools.count(1)
        self._pid = os.getpid()
        self._queue = ""
        self._waiter: _Waiter | None = None

    @property
    def parked(self) -> bool:
        """Whether the last settle found nothing more and has put us on the list of parked workers: park then."""
        return self._waiter is not None

    def _waiter_for(self, lane: Lane, incarnation: str, field: str, limit: int) -> _Waiter:
        return _Waiter(incarnation, keys.wake(incarnation, field), f"{incarnation} {field} {limit} {lane.name}")

    def _field(self) -> str:
        # The pid comes first: a parent whose child died releases that child's fields alone.
        return f"{self._pid}:{next(self._numbers)}"

    def claim(self, lane: Lane, limit: int, *, answers_bell: bool) -> Batch | None:
        """The most urgent ``limit`` requests of a lane; None if nothing waits. Raises Fenced."""
        name = self._name()
        self._queue = lane.queue
        arguments = [name, self._field(), lane.name, limit, "1" if answers_bell else "0"]
        kind, *batch = self._scripts.claim(args=arguments)
        if kind == b"fenced":
            raise Fenced(name)
        return _batch(lane, name, batch) if batch else None

    def settle(
        self,
        batch: Batch,
        outcomes: Sequence[Outcome],
        *,
        claim_next: int,
        model_runs: Mapping[str, int],
        idle: bool = True,
    ) -> Batch | None:
        """Write a batch's outcomes, ring the next stage, and claim up to ``claim_next`` more of the lane.

        ``model_runs``: how many rows each model has run. ``idle``: if nothing more waits there, this process parked;
        else it has another batch to see to.
        Raises ClaimLost if the batch is no longer ours; then nothing was written.
        """
        settings = self._settings
        # Of the strays, what this stage has done already goes on; what has ended has yet to leave.
        forwards = [part for stray in batch.strays if stray.kind == batch.lane.stage for part in stray.forward]
        ends = [part for stray in batch.strays if stray.kind in FINAL_STATES for part in stray.end]
        retries: list[object] = []
        dead: list[object] = []
        counts = Counter({f"runs:{model}": rows for model, rows in model_runs.items()})
        lane, now_ms = batch.lane, batch.server_ms()
        stage, following = lane.stage, lane.stage.following
        stage_name, claimed_ms, worked_ms = str(stage), batch.claimed_ms, batch.worked_ms
        succeeded, scored_by = str(State.SUCCEEDED), f"{lane.model.name}@{lane.model.version}"
        # A record names its model's pool; a lane does so at scoring only.
        model = next((work.header.ref for work in batch.works if not work.unreadable), lane.model)
        for work, judged in zip(batch.works, outcomes, strict=True):
            outcome, progress = judged, work.progress
            entered = progress.entered_ms or accepted_ms(work.id)
            timings = (*progress.timings, (stage_name, max(0, round(claimed_ms - entered, 3)), worked_ms))
            if isinstance(outcome, Completed):
                output = outcome.output
                instead = output.scored_by or progress.scored_by
                done = Progress(now_ms, timings, (*progress.anomalies, *output.anomalies), instead)
                try:
                    if following:
                        forwards += work.id, work.score, pack_entry(stage_name, work.prefix, done, output.body)
                    else:
                        prefix = for_itself_alone(work.prefix) if instead else work.prefix
                        tries = work.attempts.starts + 1
                        end = End(now_ms, output.body, None, tries, instead or scored_by, bool(instead))
                        ends += work.id, succeeded, pack_entry(succeeded, prefix, done, end)
                    continue
                except (TypeError, ValueError, OverflowError) as error:
                    outcome = batch.unstorable[work.id] = _not_storable(error)
            if isinstance(outcome, RetryLater):
                free = "" if outcome.charged else "free"
                if outcome.charged:
                    counts[f"failed:{lane.stage}:{outcome.attempts.errors[-1].category}"] += 1
                retries += work.id, work.score, outcome.delay_ms, pack_attempts(outcome.attempts), free
            else:
                ends += self._end(work, outcome, progress._replace(timings=timings), now_ms)
                counts[f"failed:{lane.stage}:{outcome.error['category']}"] += 1
                if outcome.state is State.DEAD:
                    record = work.blob if stage is Stage.PREPROCESS else self._input(work.id)
                    dead += work.id, pack_letter(work, outcome, stage, record, now_ms)
        field = self._field()
        waiter = self._waiter_for(lane, batch.incarnation, field, claim_next)
        # A cache elsewhere is filled by the worker; then the ledger is none.
        keeps = batch.works and not settings.cache_url
        kind, *answer = self._scripts.settle(
            args=[
                batch.incarnation,
                batch.field,
                lane.name,
                model.lane(following) if following else "",
                round(settings.result_ttl * 1000),
                round(settings.dead_max_age * 1000),
                settings.dead_max_count,
                field,
                claim_next,
                len(forwards) // 3,
                len(ends) // 3,
                len(retries) // 5,
                len(dead) // 2,
                " ".join(f"{name} {rows}" for name, rows in counts.items()),
                waiter.entry if idle else "",
                round(settings.idempotency_ttl * 1000),
                round(1000 * batch.works[0].header.cache_s) if keeps else 0,
                settings.cache_max_bytes,
                batch.worked_ms,
                *forwards,
                *ends,
                *retries,
                *dead,
            ]
        )
        if kind == b"lost":
            raise ClaimLost(f"{len(batch.works)} requests of {lane.label} were released to another worker")
        self._waiter = waiter if kind == b"parked" else None
        flights, *next_batch = answer
        for flight in flights:
            fan_out(self._scripts, settings, flight)
        return _batch(lane, batch.incarnation, next_batch) if next_batch else None

    def give_back(self) -> int:
        """Release everything this process holds, uncharged; how many requests."""
        self._waiter = None
        return release_claims(self._scripts, self._name(), charge="none", pid=self._pid, queue=self._queue)

    def _input(self, request_id: bytes) -> bytes | None:
        """The record that a request's computation began with: its own, or the copy if it ended before the others."""
        copy, record = self._client.mget(keys.flight_input(request_id), keys.record(request_id))
        return copy or record

    @staticmethod
    def _end(work: Work, outcome: Ended, progress: Progress, now_ms: float) -> tuple[bytes, str, bytes]:
        tries = outcome.attempts.starts or work.attempts.starts + 1
        end = End(now_ms, None, outcome.error, tries)
        return work.id, str(outcome.state), end_of(outcome.state, work.prefix, progress, end)

    def park(self, lane: Lane, limit: int, seconds: float) -> Batch | Lane | None:
        """Wait up to ``seconds`` for work of the lane's queue: its next batch, claimed; or the lane that has some.

        None when nothing came, or when another lane's bell waits in the queue: then leave, and answer that.
        """
        waiter = self._waiter
        if waiter is None:
            waiter = self._waiter_for(lane, self._name(), self._field(), limit)
            joined = self._scripts.park(args=[waiter.entry])
            if joined != b"parked":
                return lane if joined == b"work" else None
        self._waiter = None
        woken = self._woken(waiter, seconds)
        if woken is None and self._scripts.unpark(args=[waiter.entry]) == 0:
            # Not on the list any more: a wake is under way, and nobody else will answer it.
            woken = self._woken(waiter, 1)
            if woken is None:
                self.give_back()  # it may have held a batch
        if woken is None:
            return None
        name, *batch = woken
        woken_for = parse_lane(name.decode())
        if not batch:
            return woken_for
        now, field, *lists = batch
        count = len(lists) // 4
        return _batch(woken_for, waiter.incarnation, [now, field, *(lists[n * count :][:count] for n in range(4))])

    def ring_successor(self, lane: Lane) -> None:
        """Ring a lane on leaving it, whether work waits there or not: who answers stands ready when some comes."""
        self._scripts.ring_if_unattended(args=[lane.name])

    def _woken(self, waiter: _Waiter, seconds: float) -> list[bytes] | None:
        found = self._client.blmpop(seconds, 1, waiter.wake, direction="LEFT", count=4 * keys.SCRIPT_LIMIT + 3)
        return found[1] if found else None


def _batch(lane: Lane, incarnation: str, reply: Sequence) -> Batch:
    now, name, ids, scores, blobs, attempts = reply
    now_ms, input_kind = int(now), INPUT_KINDS[lane.stage]
    batch = Batch(lane, name.decode(), incarnation, now_ms, time.monotonic(), [])
    attempts = attempts or [None] * len(ids)
    for request_id, text, blob, tried in zip(ids, scores, blobs, attempts, strict=True):
        score = int(float(text))
        left_s = (deadline_of(score) - now_ms) / 1000
        known = unpack_attempts(tried) if tried else NO_ATTEMPTS
        try:
            kind, header, progress, body, prefix = unpack_entry(blob or b"")
        except (ValueError, TypeError) as error:
            batch.works.append(_unreadable(request_id, score, lane, blob or b"", known, left_s, error))
            continue
        if kind == input_kind:
            batch.works.append(Work(request_id, score, header, progress, body, blob, known, "", prefix, left_s))
        else:
            batch.strays.append(_Stray(request_id, text, blob, kind))
    return batch


def _not_storable(error: Exception) -> Ended:
    """The end of a request whose stage made something that the ledger cannot hold."""
    message = f"the stage's output cannot be stored: {type(error).__name__}: {error}"[:500]
    return Ended(State.DEAD, Failure(category="unknown", stage=None, message=message, retryable=False))


def _unreadable(
    request_id: bytes, score: int, lane: Lane, blob: bytes, attempts: Attempts, left_s: float, error: Exception
) -> Work:
    """A request whose value nobody can take apart. It would stop every batch that it is claimed with: it ends."""
    model = lane.model
    header = Header(model.name, model.version, bytes.fromhex(model.digest), model.pool, Priority.LOW, 0, 0, True)
    reason = f"its stored form cannot be read: {type(error).__name__}: {error}"
    prefix = pack_prefix(header, Links(tenant=tenant_of(blob)))
    return Work(request_id, score, header, Progress(0), None, blob, attempts, reason, prefix, left_s)
