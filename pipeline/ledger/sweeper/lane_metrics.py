"""What the leading sweeper measures: the pace of each lane, and which workers are alive.

A lane's *pace* is how many requests it settles per second while more are waiting than it can do: only then do its
workers limit it, not what arrives. By the pace ``accept`` refuses requests that cannot be done in time, and status
documents estimate when a request ends. A lane without a pace (never seen busy, or without a live worker) refuses none.
"""

from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median

from pipeline.contracts.stages import Stage
from pipeline.ledger import keys
from pipeline.ledger.registry import live_workers
from pipeline.settings import Settings
from pipeline.store.connection import Client

PACE_SAMPLES = 10
PACE_S = 30.0
"""How long a sample of a busy lane counts: a lane that was slow may be fast now."""
WORK_SAMPLES = 61
FIRSTS_S = 10.0
"""The window over which first attempts are counted, for the retry budget."""
BUSY_S = 0.1
"""A lane is busy if what waits would take at least so long, before and after a sample."""
RATE_WEIGHT = 0.2


@dataclass(slots=True)
class _Lane:
    """What is known of one lane. Counts are totals at the latest look."""

    waiting: int = 0
    settled: int = 0
    retried: int = 0
    busy: deque[tuple[float, int, float]] = field(default_factory=lambda: deque(maxlen=PACE_SAMPLES))
    """Samples of the busy lane: when it was taken, how many were settled, in how many seconds."""
    work: deque[float] = field(default_factory=lambda: deque(maxlen=WORK_SAMPLES))
    """How many milliseconds the latest batch took, at each look."""
    firsts: deque[tuple[float, int]] = field(default_factory=deque)
    """First attempts: when they were counted, how many."""

    @property
    def pace(self) -> float:
        """How many it settles per second while it is busy; 0 if not known."""
        seconds = sum(elapsed for _, _, elapsed in self.busy)
        return sum(settled for _, settled, _ in self.busy) / seconds if seconds else 0.0

    def sample(self, now: float, done: int, elapsed: float, waiting: int, *, served: bool) -> None:
        """Takes a sample into account: ``done`` were settled in ``elapsed`` seconds, ``waiting`` are left."""
        while self.busy and self.busy[0][0] <= now - PACE_S:
            self.busy.popleft()
        rate = done / elapsed
        busy = served and min(self.waiting, waiting) > BUSY_S * rate
        faster = rate > self.pace > 0
        if faster and (not busy or rate > 2 * self.pace):
            self.busy.clear()  # it can do more than was thought
        if busy or faster:
            self.busy.append((now, done, elapsed))


class Measuring:
    """Measures once a second, and publishes what it has found."""

    def __init__(self, client: Client, settings: Settings) -> None:
        self._client = client
        self._settings = settings
        self._lanes: dict[str, _Lane] = {}
        self._rates: dict[str, float] = {}
        self._looked_at: float | None = None
        self._live: dict[str, int] = {}

    def look(self, now: float, server_ms: float) -> None:
        """Measures once, at ``now`` (monotonic seconds) and ``server_ms`` (the ledger's time)."""
        elapsed = None if self._looked_at is None else now - self._looked_at
        self._live = self._live_workers(server_ms)
        settled, retried, work = self._counters()
        stages: dict[str, int] = defaultdict(int)
        for name, waiting in self._waiting().items():
            lane = self._lanes.setdefault(name, _Lane())
            done = settled.get(name, 0) - lane.settled
            again = retried.get(name, 0) - lane.retried
            if elapsed is not None:
                stages[_queue(name).split(".")[0]] += max(0, done)
                lane.firsts.append((now, max(0, done - again)))
                lane.sample(now, max(0, done), elapsed, waiting, served=bool(self._live.get(_queue(name))))
            while lane.firsts and lane.firsts[0][0] <= now - FIRSTS_S:
                lane.firsts.popleft()
            if name in work:
                lane.work.append(work[name])
            lane.waiting, lane.settled, lane.retried = waiting, settled.get(name, 0), retried.get(name, 0)
        if elapsed is not None:
            for stage in Stage:
                rate = stages[stage] / elapsed
                self._rates[stage] = (1 - RATE_WEIGHT) * self._rates.get(stage, rate) + RATE_WEIGHT * rate
            self._publish()
        self._looked_at = now

    def _waiting(self) -> dict[str, int]:
        lanes = [lane.decode() for lane in self._client.zrange(keys.LANES, 0, -1)]
        pipe = self._client.pipeline(transaction=False)
        for lane in lanes:
            pipe.zcard(keys.waiting(lane))
        return dict(zip(lanes, pipe.execute(), strict=True))

    def _counters(self) -> tuple[dict[str, int], dict[str, int], dict[str, float]]:
        pipe = self._client.pipeline(transaction=False)
        for key in (keys.SETTLED, keys.RETRIED, keys.WORK):
            pipe.hgetall(key)
        settled, retried, work = pipe.execute()
        return (
            {lane.decode(): int(total) for lane, total in settled.items()},
            {lane.decode(): int(total) for lane, total in retried.items()},
            {lane.decode(): float(ms) for lane, ms in work.items()},
        )

    def _live_workers(self, server_ms: float) -> dict[str, int]:
        """Counts the live workers of each queue; a standby that does not claim is not counted."""
        live: dict[str, int] = defaultdict(int)
        for worker in live_workers(self._client, server_ms, self._settings.lease_ttl_s):
            if worker.get("claims", True):
                live[worker.get("queue", "")] += 1
        return live

    def _publish(self) -> None:
        paces = {name: f"{lane.pace:.3f}" for name, lane in self._paced().items()}
        medians = {
            name: f"{median(lane.work):.3f}"
            for name, lane in self._lanes.items()
            if lane.work and self._live.get(_queue(name))
        }
        firsts = {name: sum(count for _, count in lane.firsts) for name, lane in self._lanes.items()}
        rates = {stage: f"{rate:.3f}" for stage, rate in self._rates.items()}
        pipe = self._client.pipeline(transaction=True)
        for key, values in ((keys.PACES, paces), (keys.MEDIANS, medians), (keys.FIRSTS, firsts), (keys.RATES, rates)):
            pipe.delete(key)
            if values:
                pipe.hset(key, mapping=values)
        pipe.execute()

    def _paced(self) -> Mapping[str, _Lane]:
        return {name: lane for name, lane in self._lanes.items() if lane.pace > 0 and self._live.get(_queue(name))}

    def backlogs(self) -> str:
        """Returns the paces of lanes whose backlog takes a while, a line each, as ``accept`` reads them."""
        return "".join(
            f"{name} {lane.pace:.3f}\n" for name, lane in self._paced().items() if lane.waiting > BUSY_S * lane.pace
        )

    def live_scoring_workers(self) -> int:
        """Counts the live scoring workers of all pools."""
        return sum(count for queue, count in self._live.items() if queue.split(".")[0] == Stage.SCORING)


def _queue(lane: str) -> str:
    return lane.split("/", 1)[0]
