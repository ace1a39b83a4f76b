"""How long it took until the requests that a fault affected were under way again: computed from the ledger's log.

Pure functions. An injection affects the batches that its target had claimed and never settled. Each of their requests
is under way again with the next claim that holds it, or when it has ended.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

from chaos.events import Claimed, Ended, Event, Registered, Released, Settled
from chaos.injections import Injection
from pipeline.contracts.ids import accepted_ms

WATCHED_MS = 5000
"""How long lanes are watched after an injection: a worker that serves one may go on for seconds without a bell."""
GRACE_MS = 2000
"""A target's last calls may reach the store after its death: claims made until then count as affected."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """How long the last affected request took, how many were affected, and how many of them began the stage again."""

    seconds: float
    affected: int
    again: int


@dataclass(slots=True)
class Log:
    """The log, indexed by what recoveries need."""

    claims: dict[str, list[Claimed]] = field(default_factory=lambda: defaultdict(list))
    closed: dict[tuple[str, str], Settled | Released] = field(default_factory=dict)
    starts: dict[bytes, list[tuple[int, str]]] = field(default_factory=lambda: defaultdict(list))
    by_lane: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    registered: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    ends: dict[bytes, int] = field(default_factory=dict)
    until: int = 0

    def add(self, event: Event) -> None:
        """Adds one more event, in order."""
        self.until = event.at
        if isinstance(event, Claimed):
            self.claims[event.incarnation].append(event)
            self.by_lane[event.lane].append(event.at)
            for request_id in event.ids:
                self.starts[request_id].append((event.at, event.lane))
        elif isinstance(event, Ended):
            for request_id in event.records:
                self.ends.setdefault(request_id, event.at)
        elif isinstance(event, Registered):
            self.registered[event.incarnation].append(event.at)
        else:
            self.closed.setdefault(event.claim, event)


def log_of(events: Iterable[Event]) -> Log:
    """Returns the index of all events."""
    log = Log()
    for event in events:
        log.add(event)
    return log


def recovery(injection: Injection, log: Log) -> Recovery:
    """Returns what one injection did."""
    seconds = [injection.took_s]
    seconds += [_longest_gap(log, lane, injection.at) / 1000 for lane in injection.lanes]
    seconds += [
        (log.ends.get(request_id, log.until) - accepted_ms(request_id)) / 1000 for request_id in injection.ending
    ]
    affected = again = 0
    for claimed in _affected(injection, log):
        released = log.closed.get(claimed.claim)
        for request_id in claimed.ids:
            affected += 1
            since = released.at if released else claimed.at
            started = next(
                (at for at, lane in log.starts[request_id] if at >= since and at > claimed.at and lane == claimed.lane),
                None,
            )
            again += started is not None
            # A settle that was aborted may have ended some of them before its claim is released.
            ends = [at for at in (started, log.ends.get(request_id)) if at is not None]
            since_ms = claimed.at if injection.poison else injection.at
            seconds.append((min(ends, default=log.until) - since_ms) / 1000)
    return Recovery(max(0.0, *seconds), affected, again)


def _affected(injection: Injection, log: Log) -> list[Claimed]:
    """Returns the targets' claims that were open at the injection and were never settled."""
    if injection.poison is not None:
        return _released_with(injection.poison, log)
    found = []
    for incarnation in injection.targets:
        for claimed in log.claims.get(incarnation, ()):
            mine = injection.pid is None or claimed.field.startswith(f"{injection.pid}:")
            closed = log.closed.get(claimed.claim)
            lost = closed is None or (isinstance(closed, Released) and closed.at >= injection.at)
            if mine and lost and claimed.at <= injection.at + GRACE_MS:
                found.append(claimed)
    return found


def _released_with(request_id: bytes, log: Log) -> list[Claimed]:
    """Returns the batches that held this request and were not settled."""
    return [
        claimed
        for claims in log.claims.values()
        for claimed in claims
        if request_id in claimed.ids and isinstance(log.closed.get(claimed.claim), Released)
    ]


def gaps_without_child(poison: bytes, log: Log) -> list[float]:
    """Returns for how many seconds each worker that a request killed had no child: from its claim to the next."""
    found = []
    for killed in _released_with(poison, log):
        following = (at for at in log.registered[killed.incarnation] if at > killed.at)
        found.append((next(following, log.until) - killed.at) / 1000)
    return found


def _longest_gap(log: Log, lane: str, since: float) -> float:
    """Returns the longest time without a claim from a lane after an injection."""
    claims = log.by_lane.get(lane, [])
    first = bisect_right(claims, since)
    seen = [since]
    for at in claims[first:]:
        seen.append(at)
        if at > since + WATCHED_MS:
            break
    else:
        seen.append(max(seen[-1], min(log.until, since + WATCHED_MS)))
    return max(later - earlier for earlier, later in pairwise(seen))
