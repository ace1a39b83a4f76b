"""The workers' side of the ledger: claim a batch, settle it, linger for more."""

import itertools
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.contracts.lanes import Lane, parse_lane
from pipeline.contracts.stages import Stage, State
from pipeline.contracts.work import Carry, Completed, Ended, Outcome, RetryLater, Work
from pipeline.ledger import keys
from pipeline.ledger.connection import Client
from pipeline.ledger.letters import pack_letter
from pipeline.ledger.records import (
    End,
    end_of,
    pack_attempts,
    pack_entry,
    unpack_attempts,
    unpack_entry,
)
from pipeline.ledger.scripts import Scripts
from pipeline.settings import Settings


class Fenced(Exception):
    """This incarnation was swept for silence; what it held went to others. It needs a new name."""


class ClaimLost(Exception):
    """The batch was released while we worked on it; another worker has it, and nothing of ours was written."""


@dataclass(slots=True)
class Batch:
    """A claimed batch. ``claimed_ms`` is the server's time; ``clock`` ours at that moment (monotonic seconds)."""

    lane: Lane
    field: str
    incarnation: str
    claimed_ms: int
    clock: float
    works: list[Work]
    began: float = 0.0

    def server_ms(self) -> float:
        """The server's time now, to within the time the claim took."""
        return self.claimed_ms + (time.monotonic() - self.clock) * 1000


class Claims:
    """Claims for one process. ``name`` gives the incarnation that is beating now (its parent may have renamed it)."""

    def __init__(self, client: Client, settings: Settings, name: Callable[[], str]) -> None:
        self._client = client
        self._settings = settings
        self._scripts = Scripts(client)
        self._name = name
        self._numbers = itertools.count(1)
        self._pid = os.getpid()

    def _field(self) -> str:
        # The pid comes first: a parent whose child died releases that child's fields alone.
        return f"{self._pid}:{next(self._numbers)}"

    def claim(self, lane: Lane, limit: int, *, answers_bell: bool) -> Batch | None:
        """The most urgent ``limit`` requests of a lane; None if nothing waits. Raises Fenced."""
        name = self._name()
        arguments = [name, self._field(), lane.name, limit, "1" if answers_bell else "0"]
        return self._batch(lane, name, self._scripts.claim(args=arguments))

    def settle(self, batch: Batch, outcomes: Sequence[Outcome], *, claim_next: int, model_runs: int) -> Batch | None:
        """Write a batch's outcomes, ring the next stage, and claim up to ``claim_next`` more of the lane.

        Raises ClaimLost if the batch is no longer ours; then nothing was written.
        """
        settings = self._settings
        forwards: list[object] = []
        ends: list[object] = []
        retries: list[object] = []
        dead: list[object] = []
        lane, now_ms = batch.lane, batch.server_ms()
        stage, following = lane.stage, lane.stage.following
        worked_ms = round((time.monotonic() - batch.began) * 1000, 3) if batch.began else 0.0
        for work, outcome in zip(batch.works, outcomes, strict=True):
            carry = work.carry
            entered = carry.entered_ms or int.from_bytes(work.id[:6], "big")
            timings = (*carry.timings, (str(stage), max(0, round(batch.claimed_ms - entered, 3)), worked_ms))
            if isinstance(outcome, Completed):
                output = outcome.output
                carry = carry._replace(
                    entered_ms=now_ms, timings=timings, anomalies=(*carry.anomalies, *output.anomalies)
                )
                if following:
                    forwards += work.id, work.score, pack_entry(str(stage), work.header, carry, output.body)
                    continue
                end = End(
                    now_ms, output.body, None, work.attempts.starts + 1, f"{lane.model.name}@{lane.model.version}"
                )
                ends += work.id, str(State.SUCCEEDED), end_of(State.SUCCEEDED, work.header, carry, end)
            elif isinstance(outcome, RetryLater):
                retries += work.id, work.score, outcome.delay_ms, pack_attempts(outcome.attempts)
            else:
                ends += self._end(work, outcome, carry._replace(timings=timings), now_ms)
                if outcome.state is State.DEAD:
                    record = work.blob if stage is Stage.PREPROCESS else self._client.get(keys.record(work.id))
                    dead += work.id, pack_letter(work, outcome, stage, record, now_ms)
        reply = self._scripts.settle(
            args=[
                batch.incarnation,
                batch.field,
                lane.name,
                lane.model.lane(following) if following else "",
                round(settings.result_ttl * 1000),
                round(settings.dead_max_age * 1000),
                settings.dead_max_count,
                self._field(),
                claim_next,
                len(forwards) // 3,
                len(ends) // 3,
                len(retries) // 4,
                len(dead) // 2,
                model_runs,
                *forwards,
                *ends,
                *retries,
                *dead,
            ]
        )
        if reply[0] == b"lost":
            raise ClaimLost(f"{len(batch.works)} requests of {lane.label} were released to another worker")
        return self._batch(lane, batch.incarnation, reply)

    def give_back(self) -> int:
        """Release everything this process holds, with nothing charged: it was interrupted; how many requests."""
        return int(self._scripts.release(args=[self._name(), f"{self._pid}:", "none", "", "", 0, "0", 0]))

    @staticmethod
    def _end(work: Work, outcome: Ended, carry: Carry, now_ms: float) -> tuple[bytes, str, bytes]:
        tries = outcome.attempts.starts or work.attempts.starts + 1
        end = End(now_ms, None, outcome.error, tries)
        return work.id, str(outcome.state), end_of(outcome.state, work.header, carry, end)

    def linger(self, lane: Lane, seconds: float) -> Lane | None:
        """Wait up to ``seconds`` for work of the lane's queue; the lane that woke us, or None when nothing came."""
        worker = f"{self._name()}:{self._pid}"
        if self._scripts.linger(args=[worker, lane.name, "join"]) == 0:
            return lane
        woken = self._client.blpop([keys.wake(worker)], timeout=seconds)
        if woken is None and self._scripts.linger(args=[worker, lane.name, "leave"]) == 0:
            # Not on the list any more: a wake is under way, and nobody else will answer it.
            woken = self._client.blpop([keys.wake(worker)], timeout=1)
        return parse_lane(woken[1].decode()) if woken else None

    def _batch(self, lane: Lane, incarnation: str, reply: list) -> Batch | None:
        kind = reply[0]
        if kind == b"fenced":
            raise Fenced(incarnation)
        if kind == b"empty":
            return None
        _, now, name, ids, scores, blobs, attempts = reply
        works = []
        for place, (request_id, score, blob) in enumerate(zip(ids, scores, blobs, strict=True)):
            entry = unpack_entry(blob)
            tried = unpack_attempts(attempts[place] if attempts else None)
            works.append(Work(request_id, int(float(score)), entry.header, entry.carry, entry.body, blob, tried))
        return Batch(lane, name.decode(), incarnation, int(now), time.monotonic(), works)
