"""Claims: the batches that a worker holds. Claims one, settles it, gives all of them back, parks for more."""

import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from pipeline.contracts.lanes import Lane, parse_lane
from pipeline.contracts.work import Outcome
from pipeline.ledger import keys
from pipeline.ledger.recovery import fan_out, release_claims
from pipeline.ledger.scripts import Scripts
from pipeline.ledger.workers.batch import Batch, batch_of, handed_over
from pipeline.ledger.workers.settlement import Following, Settlement
from pipeline.settings import Settings
from pipeline.store.connection import Client

UNDER_WAY_S = 1.0
"""How long a worker that is off the list waits for its wake, which another process is about to send."""


class Fenced(Exception):
    """This incarnation was swept for silence; what it held went to others. It needs a new name."""


class ClaimLost(Exception):
    """The batch was released while we worked on it; another worker has it, and nothing of ours was written."""


class _Waiter(NamedTuple):
    """A waiter on the list of a queue's parked workers (see ``park`` in ``lua/prelude/lanes.lua``)."""

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
        """Whether the last settle found nothing more, and put this process on the list of parked workers."""
        return self._waiter is not None

    def claim(self, lane: Lane, limit: int, *, answers_bell: bool) -> Batch | None:
        """Claims the most urgent ``limit`` requests of a lane; None if nothing waits. Raises Fenced."""
        name = self._name()
        self._queue = lane.queue
        arguments = [name, self._field(), lane.name, limit, "1" if answers_bell else "0"]
        kind, *batch = self._scripts.claim(args=arguments)
        if kind == b"fenced":
            raise Fenced(name)
        return batch_of(lane, name, batch) if batch else None

    def settle(
        self,
        batch: Batch,
        outcomes: Sequence[Outcome],
        *,
        claim_next: int,
        model_runs: Mapping[str, int],
        idle: bool = True,
    ) -> Batch | None:
        """Writes a batch's outcomes, rings the next stage, and claims up to ``claim_next`` more of the lane.

        ``model_runs``: how many rows each model has run. ``idle``: this process has no other batch to see to, and parks
        if nothing more waits. Raises ClaimLost if the batch is no longer ours; then nothing was written.
        """
        settlement = Settlement(batch, model_runs, self._input)
        settlement.add(outcomes)
        field = self._field()
        waiter = self._waiter_for(batch.lane, batch.incarnation, field, claim_next)
        following = Following(field, claim_next, waiter.entry if idle else "")
        kind, *answer = self._scripts.settle(args=settlement.arguments(self._settings, following))
        if kind == b"lost":
            raise ClaimLost(f"{len(batch.works)} requests of {batch.lane.label} were released to another worker")
        self._waiter = waiter if kind == b"parked" else None
        flights, *next_batch = answer
        for flight in flights:
            fan_out(self._scripts, self._settings, flight)
        return batch_of(batch.lane, batch.incarnation, next_batch) if next_batch else None

    def give_back(self) -> int:
        """Releases everything this process holds, and charges nothing; returns how many requests."""
        self._waiter = None
        return release_claims(self._scripts, self._name(), charge="none", pid=self._pid, queue=self._queue)

    def park(self, lane: Lane, limit: int, seconds: float) -> Batch | Lane | None:
        """Waits up to ``seconds`` for work of the lane's queue.

        Returns the lane's next batch, claimed by the script that woke this process; or the lane that has work; or None
        when nothing came, or another lane's bell waits in the queue: then leave, and answer that.
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
            # Off the list already: a wake is under way, and no other process will answer it.
            woken = self._woken(waiter, UNDER_WAY_S)
            if woken is None:
                self.give_back()  # it may have held a batch
        if woken is None:
            return None
        name, *batch = woken
        woken_for = parse_lane(name.decode())
        return handed_over(waiter.incarnation, woken_for, batch) if batch else woken_for

    def ring_successor(self, lane: Lane) -> None:
        """Rings a lane on leaving it, even if nothing waits: the worker that answers is ready when something comes."""
        self._scripts.ring_if_unattended(args=[lane.name])

    def _woken(self, waiter: _Waiter, seconds: float) -> list[bytes] | None:
        found = self._client.blmpop(seconds, 1, waiter.wake, direction="LEFT", count=4 * keys.SCRIPT_LIMIT + 3)
        return found[1] if found else None

    def _waiter_for(self, lane: Lane, incarnation: str, field: str, limit: int) -> _Waiter:
        return _Waiter(incarnation, keys.wake(incarnation, field), f"{incarnation} {field} {limit} {lane.name}")

    def _field(self) -> str:
        # The pid comes first: a parent whose child died releases that child's fields alone.
        return f"{self._pid}:{next(self._numbers)}"

    def _input(self, request_id: bytes) -> bytes | None:
        """The record that a request's computation began with: its own, or the copy if it ended before the others."""
        copy, record = self._client.mget(keys.flight_input(request_id), keys.record(request_id))
        return copy or record
