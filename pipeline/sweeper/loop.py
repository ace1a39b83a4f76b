"""The sweeper's rounds: it does what no other process is there to do. Run at least two; one leads, the others stand by.

In each round the leader puts due retries back into their lanes, fans out the outcomes of flights, expires deadlines
(even with no worker alive), releases the claims of silent workers and of batches that overran, rings lanes with work
that no worker claims, and repairs what interrupted scripts have left.
"""

import math
import secrets
import time
from collections.abc import Callable

from pipeline.ledger import keys
from pipeline.ledger.sweeper.lane_metrics import Measuring
from pipeline.ledger.sweeper.maintenance import Sweeping
from pipeline.ledger.sweeper.repairs import Repairs
from pipeline.service.signals import StopRequest
from pipeline.settings import Settings
from pipeline.store.connection import Client
from pipeline.store.errors import OUTAGES, StoreError
from pipeline.sweeper.degraded import DegradedMode
from pipeline.sweeper.grace import Grace
from pipeline.sweeper.lanes import IdleLanes
from pipeline.telemetry.events.sweepers import (
    BatchOverdue,
    FlightsFannedOut,
    RetryBudgetUsedUp,
    SweeperLeads,
    SweeperStandsBy,
    SweepFailed,
    SweepStepFailed,
    WorkerDead,
)

MEASURE_S = 1.0
PAGES = 50
"""How many full pages one step works through before the round goes on."""


class Sweeper:
    """Makes a round every ``sweep_s`` until it is stopped, and leads if no other sweeper does."""

    def __init__(self, client: Client, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._settings = settings
        self._clock = clock
        self._name = secrets.token_hex(8)
        self._stop = StopRequest()
        self._sweeping = Sweeping(client, settings)
        self._measuring = Measuring(client, settings)
        self._repairs = Repairs(client, settings)
        self._grace = Grace(settings, clock())
        self._degraded_mode = DegradedMode(settings)
        self._idle_lanes = IdleLanes(self._sweeping, settings.lane_idle_s)
        self._measured_at = -math.inf
        self._retries_wait = False
        self._turned = time.monotonic()
        self.leads = False
        self.failure = "it has not got through a round yet"
        """Why its latest round failed; empty if it led or stood by."""

    def run(self) -> None:
        """Makes rounds until ``stop`` is called. An outage of the store does not end it."""
        while not self._stop.made:
            try:
                self.sweep()
                self.failure = ""
            except StoreError as error:
                SweepFailed(error=str(error)).emit()
                self.failure = f"its latest round failed: {error}"
                self.store_was_away()
            self._turned = time.monotonic()
            if self._stop.wait(self._settings.sweep_s):
                return

    @property
    def turned_s_ago(self) -> float:
        """How many seconds ago the latest round ended, for the health check."""
        return time.monotonic() - self._turned

    def stop(self) -> None:
        """Lets ``run`` return after the current round. Safe in a signal handler."""
        self._stop.make()

    def store_was_away(self) -> None:
        """Notes that a round has failed."""
        self._idle_lanes.forget()
        self._grace.store_was_away()

    def sweep(self) -> None:
        """Makes one round, if this sweeper leads."""
        lead = self._sweeping.lead(
            self._name,
            shortage=self._sweeping.shortage(),
            backlogs=self._measuring.backlogs(),
            degraded=self._degraded_mode.on,
            passed_s=self._grace.passed_s(self._clock()),
        )
        now = self._clock()
        self._grace.look(lead, now, self._sweeping.overdue_s(longer=self._degraded_mode.limits_are_longer(now)))
        if lead.leads != self.leads:
            (SweeperLeads if lead.leads else SweeperStandsBy)(sweeper=self._name).emit()
            self.leads = lead.leads
            self._begin_lead(degraded=lead.degraded)
        if not self.leads:
            return
        for step in (
            self._requeue_due_retries,
            self._fan_out_flights,  # before deadlines: what has its outcome in time does not expire
            self._expire_deadlines,
            self._release_claims,
            self._sweeping.forget_dead_workers,
            self._repairs.scrub,
            self._ring_idle_lanes,
            self._measure,
        ):
            try:
                step()
            except OUTAGES:
                raise
            except Exception as error:  # noqa: BLE001
                # One step that fails must not keep the others from being done.
                SweepStepFailed(step=step.__name__).emit(error)

    def _begin_lead(self, *, degraded: bool) -> None:
        """Forgets what this sweeper found when it led before."""
        self._idle_lanes.forget()
        self._measuring = Measuring(self._client, self._settings)
        self._degraded_mode.resume(self._clock(), on=degraded)
        self._retries_wait = False

    # A full page means that more is due: the step goes on at once, but not for ever: the others have their turn.

    def _requeue_due_retries(self) -> None:
        requeued = held_back = 0
        for _ in range(PAGES):
            due, waiting = self._sweeping.requeue_due_retries()
            requeued, held_back = requeued + due - waiting, held_back + waiting
            if due < keys.SCRIPT_LIMIT:
                break
        if held_back and not self._retries_wait:
            RetryBudgetUsedUp(held_back=held_back).emit()
        if held_back or requeued:
            self._retries_wait = bool(held_back)

    def _expire_deadlines(self) -> None:
        for _ in range(PAGES):
            if self._sweeping.expire_deadlines() < keys.SCRIPT_LIMIT:
                break

    def _fan_out_flights(self) -> None:
        ended = self._sweeping.fan_out_flights()
        if ended:
            FlightsFannedOut(requests=ended).emit()

    def _release_claims(self) -> None:
        now = self._clock()
        if self._grace.silence_counts(now):
            for name, released in self._sweeping.release_dead_workers():
                WorkerDead(incarnation=name, released=released).emit()
        if self._grace.age_counts(now):
            overdue = self._sweeping.release_overdue_batches(longer=self._degraded_mode.limits_are_longer(now))
            if overdue:
                BatchOverdue(released=overdue).emit()

    def _ring_idle_lanes(self) -> None:
        self._idle_lanes.ring(self._clock())

    def _measure(self) -> None:
        now = self._clock()
        if now - self._measured_at < MEASURE_S:
            return
        self._measured_at = now
        self._sweeping.trim_dead_letters()
        self._repairs.recover_orphans()
        self._measuring.look(now, self._sweeping.server_ms())
        self._degraded_mode.look(now, self._measuring.live_scoring_workers())
