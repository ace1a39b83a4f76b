"""How long it took until what a fault had struck was under way again: computed afterwards, from the ledger's log.

Pure functions. A strike at a time struck the batches that its victim had claimed and never settled; each of their
requests is under way again with the next claim that holds it, or when it has ended.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from itertools import pairwise

from chaos.events import Claimed, Ended, Event, Registered, Released, Settled
from pipeline.contracts.ids import accepted_ms

WATCHED_MS = 5000
"""How long lanes are watched after what struck them: a worker that holds one may stay for seconds without a bell."""
GRACE_MS = 2000
"""What a victim had sent before it died may reach the store a little later: until then its claims count as struck."""


@dataclass(frozen=True, slots=True)
class Strike:
    """One strike.

    ``at``: when (the server's ms). ``victims``: the incarnations struck. ``pid``: of that child of theirs alone.
    ``lanes``: lanes that were struck, with work coming all the time. ``poison``: the request that struck all batches
    that it was claimed in. ``ending``: requests that it was felt by from their acceptance to their end.
    ``took_s``: measured on the spot, for what strikes no batch.
    """

    fault: str
    at: float
    victims: Collection[str] = ()
    pid: int | None = None
    lanes: Collection[str] = ()
    poison: bytes | None = None
    ending: Collection[bytes] = ()
    took_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Recovery:
    """How long the last struck request took, and how many began the same stage again."""

    seconds: float
    struck: int
    again: int


@dataclass(slots=True)
class Log:
    """The log, by what recoveries ask for."""

    claims: dict[str, list[Claimed]] = field(default_factory=lambda: defaultdict(list))
    closed: dict[tuple[str, str], Settled | Released] = field(default_factory=dict)
    starts: dict[bytes, list[tuple[int, str]]] = field(default_factory=lambda: defaultdict(list))
    by_lane: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    registered: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    ends: dict[bytes, int] = field(default_factory=dict)
    until: int = 0

    def add(self, event: Event) -> None:
        """One more event, in order."""
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
    """All events, put in order."""
    log = Log()
    for event in events:
        log.add(event)
    return log


def recovery(strike: Strike, log: Log) -> Recovery:
    """What came of one strike."""
    seconds = [strike.took_s]
    seconds += [_longest_gap(log, lane, strike.at) / 1000 for lane in strike.lanes]
    seconds += [(log.ends.get(request_id, log.until) - accepted_ms(request_id)) / 1000 for request_id in strike.ending]
    struck = again = 0
    for claimed in _struck(strike, log):
        released = log.closed.get(claimed.claim)
        for request_id in claimed.ids:
            struck += 1
            since = released.at if released else claimed.at
            started = next(
                (at for at, lane in log.starts[request_id] if at >= since and at > claimed.at and lane == claimed.lane),
                None,
            )
            again += started is not None
            # A settle that was stopped has ended some already when its claim is released.
            ends = [at for at in (started, log.ends.get(request_id)) if at is not None]
            struck_at = claimed.at if strike.poison else strike.at
            seconds.append((min(ends, default=log.until) - struck_at) / 1000)
    return Recovery(max(0.0, *seconds), struck, again)


def _struck(strike: Strike, log: Log) -> list[Claimed]:
    """The victims' claims that were open at the strike and were never settled."""
    if strike.poison is not None:
        return _released_with(strike.poison, log)
    found = []
    for incarnation in strike.victims:
        for claimed in log.claims.get(incarnation, ()):
            mine = strike.pid is None or claimed.field.startswith(f"{strike.pid}:")
            closed = log.closed.get(claimed.claim)
            lost = closed is None or (isinstance(closed, Released) and closed.at >= strike.at)
            if mine and lost and claimed.at <= strike.at + GRACE_MS:
                found.append(claimed)
    return found


def _released_with(request_id: bytes, log: Log) -> list[Claimed]:
    """The batches that this request was in, and that were not settled."""
    return [
        claimed
        for claims in log.claims.values()
        for claimed in claims
        if request_id in claimed.ids and isinstance(log.closed.get(claimed.claim), Released)
    ]


def outages(poison: bytes, log: Log) -> list[float]:
    """For how long workers that a request has killed had no child: from its claim to the next one's, in seconds."""
    found = []
    for killed in _released_with(poison, log):
        following = (at for at in log.registered[killed.incarnation] if at > killed.at)
        found.append((next(following, log.until) - killed.at) / 1000)
    return found


def _longest_gap(log: Log, lane: str, since: float) -> float:
    """The longest time without a claim from a lane after a strike: who serves it may go on for a while."""
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
