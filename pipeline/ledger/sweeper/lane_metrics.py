"""What the leading sweeper measures of lanes and workers: the pace of a lane, and who lives.

A lane's *pace* is what it settles per second while more waits than it can do: only then is it limited by its workers,
not by what arrives. Accept refuses by it what cannot be done in time, and documents estimate by it when a request ends.
Lanes without a pace (never seen busy, or without a live worker) refuse nobody.
"""

from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median

from pipeline.contracts.stages import Stage
from pipeline.ledger import keys
from pipeline.ledger.registry import living
from pipeline.settings import Settings
from pipeline.store.connection import Client

PACE_SAMPLES = 10
PACE_S = 30.0
"""How long a sample of a busy lane counts: what was slow then may be fast now."""
WORK_SAMPLES = 61
FIRSTS_S = 10.0
"""The while over which first attempts are counted, for the retry budget."""
BUSY_S = 0.1
"""A lane is busy if what waits would take so long at least, before and after a sample."""
RATE_WEIGHT = 0.2


@dataclass(slots=True)
class _Lane:
    """What is known of one lane."""

    waiting: int = 0
    settled: int = 0
    retried: int = 0
    busy: deque[tuple[float, int, float]] = field(default_factory=lambda: deque(maxlen=PACE_SAMPLES))
    """Samples of a busy lane: when, settled, in how many seconds."""
    work: deque[float] = field(default_factory=lambda: deque(maxlen=WORK_SAMPLES))
    """Milliseconds that the latest batch took, each time it was looked at."""
    firsts: deque[tuple[float, int]] = field(default_factory=deque)
    """First attempts: when, how many."""

    @property
    def pace(self) -> float:
        """Settled per second while busy; 0 if not known."""
        seconds = sum(elapsed for _, _, elapsed in self.busy)
        return sum(settled for _, settled, _ in self.busy) / seconds if seconds else 0.0

    def sample(self, now: float, done: int, elapsed: float, waiting: int, *, served: bool) -> None:
        """Take a second into account: how many were settled in it, how many wait now."""
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
    """Looks once a second, and publishes what it has found."""

    def __init__(self, client: Client, settings: Settings) -> None:
        self._client = client
        self._settings = settings
        self._lanes: dict[str, _Lane] = {}
        self._rates: dict[str, float] = {}
        self._looked_at: float | None = None
        self._live: dict[str, int] = {}

    def look(self, now: float, server_ms: float) -> None:
        """One look, at ``now`` (monotonic seconds)."""
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
        """How many live workers each queue has; a standby that stands by is none."""
        live: dict[str, int] = defaultdict(int)
        for worker in living(self._client, server_ms, self._settings.lease_ttl_s):
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
        """The paces of lanes whose backlog takes a while, as accept reads them."""
        return "".join(
            f"{name} {lane.pace:.3f}\n" for name, lane in self._paced().items() if lane.waiting > BUSY_S * lane.pace
        )

    def live_scoring_workers(self) -> int:
        """How many there are, of all pools."""
        return sum(count for queue, count in self._live.items() if queue.split(".")[0] == Stage.SCORING)


def _queue(lane: str) -> str:
    return lane.split("/", 1)[0]
