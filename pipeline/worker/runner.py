"""The runner: answers one bell of a lane that has work.

    claim -> run the batches (see ``batches``) -> park for more -> ... -> leave

The bell is acknowledged when ``serve`` returns, after all commits. Nothing depends on it: whatever this process leaves
behind, dead or alive, stands in the ledger, and the sweeper rings again.
"""

import time
from collections.abc import Callable

from pipeline.contracts.lanes import Lane
from pipeline.ledger.result_cache import CacheFiller
from pipeline.ledger.workers.batch import Batch
from pipeline.ledger.workers.claims import Claims
from pipeline.settings import Settings
from pipeline.stage.protocols import StageService
from pipeline.worker.batches import Batches, Served
from pipeline.worker.guard import Guard, Watch


class Runner:
    """Serves lanes for one process."""

    def __init__(
        self,
        service: StageService,
        claims: Claims,
        cache: CacheFiller | None,
        settings: Settings,
        watch: Watch,
        failpoint: Callable[[str], None] = lambda _: None,
        stopping: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``failpoint`` is called at the steps at which tests kill this process (``pipeline/testing/failpoints.py``).

        ``stopping``: whether this process has been told to end; then what is raised is not the stage's doing.
        ``clock``: monotonic seconds.
        """
        self._claims = claims
        self._settings = settings
        self._failpoint = failpoint
        self._guard = Guard(watch.overran, stopping)
        self._clock = clock
        self._batches = Batches(service, self._guard, claims, cache, settings, watch, failpoint, clock)

    @property
    def performing(self) -> bool:
        """Whether the stage's own code runs: the one time at which a signal may interrupt this process."""
        return self._guard.performing

    def serve(self, lane: Lane) -> Served:
        """Answers a bell; the caller acknowledges it."""
        served = Served()
        self._serve(lane, served)
        self._failpoint("before-ack")
        return served

    def _serve(self, lane: Lane, served: Served) -> None:
        """Works on lanes of one queue until nothing comes, or ``bell_s`` has passed.

        After ``lane_slice_s`` on a lane that still has work, other lanes get their turn. On an empty lane this process
        parks. That keeps no other lane waiting: a wake names whichever lane of the queue has work, and a process does
        not park while the bell of another lane waits there. So under light traffic one bell serves for ``bell_s``.
        Then it rings its successor, which is parked before the next request comes: few requests pay for Celery's hop.
        """
        bell_ends_at = self._clock() + self._settings.bell_s
        batch = self._claims.claim(lane, self._batches.limit(lane), answers_bell=True)
        while True:
            deadline = min(self._clock() + self._settings.lane_slice_s, bell_ends_at)
            if batch is not None:
                self._batches.work_off(batch, deadline, served)
            if self._clock() >= deadline and not self._claims.parked:
                # The last settle has rung if anything waits. If nothing does, the successor stands ready all the same.
                # The other lanes come first: this lane's bell stands behind theirs.
                self._claims.ring_successor(lane)
                return
            match self._claims.park(lane, self._batches.limit(lane), self._settings.park_s):
                case Batch() as batch:  # claimed for this process by whoever woke it
                    lane = batch.lane
                case Lane() as lane:  # this lane has work
                    batch = self._claims.claim(lane, self._batches.limit(lane), answers_bell=False)
                case None:  # nothing came, or another lane's bell waits
                    return
