"""The sweeper: finds what nobody else is there to notice. Run at least two; one leads, the others stand by.

Each round: due retries go back to their lanes, claims of workers that fell silent or batches that overran are
released, deadlines expire (even with no worker alive), lanes with work that nobody claims are rung.
"""

import secrets
import threading
import time

import structlog
from redis.exceptions import RedisError

from pipeline.ledger import keys
from pipeline.ledger.connection import Client
from pipeline.ledger.sweeping import Sweeping
from pipeline.settings import Settings

log = structlog.get_logger()


class Sweeper:
    """Sweeps until stopped."""

    def __init__(self, client: Client, settings: Settings) -> None:
        self._sweeping = Sweeping(client, settings)
        self._settings = settings
        self._name = secrets.token_hex(8)
        self._halt = threading.Event()
        self._waiting_since: dict[str, float] = {}
        self._totals: dict[str, int] = {}
        self._sampled_at = 0.0
        self._rates: dict[str, float] = {}
        self._turned = time.monotonic()
        self.leads = False

    def run(self) -> None:
        """Sweep every ``sweep_s`` until ``stop``; through outages of the store, keep trying."""
        while not self._halt.is_set():
            try:
                self.sweep()
            except (RedisError, OSError) as error:
                log.warning("sweep_failed", error=str(error))
                self._waiting_since.clear()
            self._turned = time.monotonic()
            self._halt.wait(self._settings.sweep_s)

    @property
    def turned_s_ago(self) -> float:
        """Seconds since the last round, for the health check."""
        return time.monotonic() - self._turned

    def stop(self) -> None:
        """Let ``run`` return after the present round."""
        self._halt.set()

    def sweep(self) -> None:
        """One round, if this sweeper leads."""
        leads = self._sweeping.lead(self._name)
        if leads != self.leads:
            log.info("sweeper_leads" if leads else "sweeper_stands_by", name=self._name)
            self.leads = leads
        if not leads:
            self._waiting_since.clear()
            return
        # Full pages mean that more is due: go on at once, but look at everything else in between.
        for _ in range(50):
            if self._sweeping.revive_due_retries() < keys.SCRIPT_LIMIT:
                break
        for _ in range(50):
            if self._sweeping.expire_deadlines() < keys.SCRIPT_LIMIT:
                break
        for name, released in self._sweeping.release_dead_workers():
            log.warning("worker_dead", incarnation=name, released=released)
        overdue = self._sweeping.release_overdue_batches()
        if overdue:
            log.warning("batch_overdue", released=overdue)
        self._sweeping.forget_dead_workers()
        self._ring_idle_lanes()
        self._sample_rates()

    def _ring_idle_lanes(self) -> None:
        now = time.monotonic()
        lanes = self._sweeping.lanes_with_work()
        self._waiting_since = {lane: self._waiting_since.get(lane, now) for lane in lanes}
        overdue = [lane for lane, since in self._waiting_since.items() if now - since >= self._settings.lane_idle_s]
        for lane in self._sweeping.ring_idle(overdue):
            log.info("lane_rung", lane=lane)
            # One bell each second at most: where no worker lives, bells must not pile up.
            self._waiting_since[lane] = now

    def _sample_rates(self) -> None:
        now = time.monotonic()
        elapsed = now - self._sampled_at
        if elapsed < 1:
            return
        totals = self._sweeping.settled_totals()
        if self._totals:
            for stage, total in totals.items():
                rate = max(0, total - self._totals[stage]) / elapsed
                # A moving average over about five seconds.
                self._rates[stage] = 0.8 * self._rates.get(stage, rate) + 0.2 * rate
            self._sweeping.write_rates(self._rates)
        self._totals, self._sampled_at = totals, now
