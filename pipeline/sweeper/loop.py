"""The sweeper's rounds: it does what no other process is there to do. Run at least two; one leads, the others stand by.

In each round the leader puts due retries back into their lanes, fans out the outcomes of flights, expires deadlines
(even with no worker alive), releases the claims of silent workers and of batches that overran, rings lanes with work
that no worker claims, and repairs what interrupted scripts have left.
"""

import math
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.ledger import keys
from pipeline.ledger.clock import CLOCK_BEHIND_MS
from pipeline.ledger.sweeper.lane_metrics import Measuring
from pipeline.ledger.sweeper.maintenance import Lead, Sweeping
from pipeline.ledger.sweeper.repairs import Repairs
from pipeline.service.signals import StopRequest
from pipeline.settings import LONGER, Settings
from pipeline.store.connection import Client
from pipeline.store.errors import OUTAGES, StoreError
from pipeline.telemetry.events.sweepers import (
    BatchOverdue,
    DegradedModeBegins,
    DegradedModeEnds,
    FlightsFannedOut,
    LaneRung,
    RetryBudgetUsedUp,
    StoreClockBehind,
    StoreClockJumped,
    SweeperLeads,
    SweeperStandsBy,
    SweepFailed,
    SweepStepFailed,
    WorkerDead,
)

MAX_PAUSE_S = 30.0
"""The longest pause between two rings of a lane in whose queue bells wait already."""
MEASURE_S = 1.0
WEAK_S = 3.0
"""How long too few workers must be alive before degraded mode begins."""
PAGES = 50
"""How many full pages one step works through before the round goes on."""


@dataclass(slots=True)
class _Rings:
    """When to look at a lane with work again, and when to ring it although bells wait in its queue (clock seconds).

    Where no worker answers, bells must not pile up: the pauses grow. A lane without any bell is rung at once.
    """

    look_at: float
    insist_at: float
    pause_s: float


class Sweeper:
    """Makes a round every ``sweep_s`` until it is stopped, and leads if no other sweeper does."""

    def __init__(self, client: Client, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._sweeping = Sweeping(client, settings)
        self._settings = settings
        self._clock = clock
        self._name = secrets.token_hex(8)
        self._stop = StopRequest()
        self._rings: dict[str, _Rings] = {}
        self._client = client
        self._measuring = Measuring(client, settings)
        self._repairs = Repairs(client, settings)
        self._measured_at = -math.inf
        self._degraded = False
        self._strong_at = self._longer_until = -math.inf
        self._retries_wait = False
        self._swept_at = clock()
        self._away = False
        self._grace_until = self._overdue_grace_until = -math.inf
        self._server_ms: int | None = None
        self._clock_behind = False
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
        """Notes that a round has failed: the next one that succeeds looks at how long the store was away."""
        self._rings.clear()
        self._away = True

    def _grant_grace(self, now: float) -> None:
        """Gives workers a lease's time to be heard: they could not beat, or the clock jumped over their heartbeats.

        The next grace period is granted only after silence has counted for as long in between. Otherwise a store that
        fails now and then would keep the claims of dead workers for ever.
        """
        if now >= self._grace_until + self._settings.lease_ttl_s:
            self._grace_until = now + self._settings.lease_ttl_s

    def _look_at_clocks(self, lead: Lead) -> None:
        """Grants workers a grace period after an outage of the store, or when its clock has jumped ahead."""
        now = self._clock()
        passed_s, self._swept_at = now - self._swept_at, now
        if self._away and passed_s >= self._settings.lease_ttl_s - 2 * self._settings.heartbeat_s:
            self._grant_grace(now)
        if self._server_ms is not None:
            jump_s = (lead.now_ms - self._server_ms) / 1000 - passed_s
            if jump_s > self._settings.heartbeat_s:
                StoreClockJumped(ahead_s=round(jump_s, 3)).emit()
                self._grant_grace(now)
                self._overdue_grace_until = now + self._sweeping.overdue_s(longer=now < self._longer_until)
        self._away, self._server_ms = False, lead.now_ms
        behind = lead.behind_ms > CLOCK_BEHIND_MS
        if behind and not self._clock_behind:
            StoreClockBehind(seconds=lead.behind_ms / 1000).emit()
        self._clock_behind = behind

    def sweep(self) -> None:
        """Makes one round, if this sweeper leads."""
        lead = self._sweeping.lead(
            self._name,
            shortage=self._sweeping.shortage(),
            backlogs=self._measuring.backlogs(),
            degraded=self._degraded,
            passed_s=self._clock() - self._swept_at,
        )
        self._look_at_clocks(lead)
        leads, degraded = lead.leads, lead.degraded
        if leads != self.leads:
            (SweeperLeads if leads else SweeperStandsBy)(sweeper=self._name).emit()
            self.leads = leads
            self._begin_lead(degraded=degraded)
        if not leads:
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
        """Forgets what this sweeper found when it led before; degraded mode goes on as the previous leader left it."""
        now = self._clock()
        self._rings.clear()
        self._measuring = Measuring(self._client, self._settings)
        self._degraded = degraded
        self._strong_at = -math.inf if degraded else now
        self._longer_until = now + LONGER * self._settings.hard_limit_s  # batches may have begun with longer limits
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
        if self._clock() >= self._grace_until:
            for name, released in self._sweeping.release_dead_workers():
                WorkerDead(incarnation=name, released=released).emit()
        if self._clock() >= self._overdue_grace_until:
            overdue = self._sweeping.release_overdue_batches(longer=self._clock() < self._longer_until)
            if overdue:
                BatchOverdue(released=overdue).emit()

    def _ring_idle_lanes(self) -> None:
        now, idle_s = self._clock(), self._settings.lane_idle_s
        self._rings = {
            # A lane is rung after it was seen in two rounds: one alone may come between a bell and its claim.
            lane: self._rings.get(lane) or _Rings(now + idle_s / 8, now + idle_s, idle_s)
            for lane in self._sweeping.lanes_with_work()
        }
        for lane, rings in self._rings.items():
            if now < rings.look_at:
                continue
            answer = self._sweeping.ring_idle(lane, unless_bells_wait=now < rings.insist_at)
            if answer == "served":
                # Look again in each round: its idle time counts from the last claim, which may be nearly over.
                self._rings[lane] = _Rings(now, now + idle_s, idle_s)
            elif answer == "rung":
                LaneRung(lane=lane).emit()
                rings.pause_s = min(2 * rings.pause_s, MAX_PAUSE_S)
                rings.look_at, rings.insist_at = now + idle_s, now + rings.pause_s

    def _measure(self) -> None:
        now = self._clock()
        if now - self._measured_at < MEASURE_S:
            return
        self._measured_at = now
        self._sweeping.trim_dead_letters()
        self._repairs.recover_orphans()
        self._measuring.look(now, self._sweeping.server_ms())
        self._watch_degraded_mode(now)

    def _watch_degraded_mode(self, now: float) -> None:
        """Begins degraded mode when fewer than half of the expected scoring workers are alive, and ends it again.

        It begins after a while only: after an outage of the store all workers have to be heard again first.
        """
        live, expected = self._measuring.live_scoring_workers(), self._settings.expected_scoring_workers
        if 2 * live >= expected:
            self._strong_at = now
        degraded = now - self._strong_at >= WEAK_S
        if degraded:
            self._longer_until = now + LONGER * self._settings.hard_limit_s
        if degraded != self._degraded:
            self._degraded = degraded
            (DegradedModeBegins if degraded else DegradedModeEnds)(live=live, expected=expected).emit()
