"""The count: compares what the producer sent, what the tasks noted and what the broker holds. Pure functions."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from chaos.stock.notes import Note
from pipeline.contracts.stages import Stage

LATE_S = 5.0
"""What Scoreline promises for the 99th percentile after a kill."""
LAST = str(list(Stage)[-1])
Kind = Literal["child", "worker", "store"]


@dataclass(frozen=True, slots=True)
class Sent:
    """One request as its producer knows it; ``accepted``: its send returned. ``tasks``: the ids of its tasks."""

    request: int
    at: float
    accepted: bool
    tasks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Kill:
    """One kill, and the working processes that died of it."""

    kind: Kind
    at: float
    pids: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class BrokerState:
    """Which requests the broker holds, and which have failed by the result backend, with the error's name."""

    queued: frozenset[int] = frozenset()
    unacked: frozenset[int] = frozenset()
    failed: Mapping[int, str] = field(default_factory=dict)


def judge(
    sent: Sequence[Sent], notes: Sequence[Note], kills: Sequence[Kill], broker: BrokerState, late_s: float = LATE_S
) -> dict[str, Any]:
    """Puts every accepted request into one of ended, returning, failed, nowhere; says how long affected ones took."""
    accepted = {one.request: one for one in sent if one.accepted}
    finals = Counter(note.request for note in notes if note.event == "end" and note.stage == LAST)
    ends = ended(notes)
    runs = Counter((note.request, note.stage) for note in notes if note.event == "start")
    done = accepted.keys() & ends.keys()
    missing = accepted.keys() - done
    unacked = missing & broker.unacked
    queued = (missing & broker.queued) - unacked
    failed = (missing & broker.failed.keys()) - unacked - queued
    seconds = [ends[request] - accepted[request].at for request in done]
    return {
        "sent": len(sent),
        "accepted": len(accepted),
        "unknown": len(sent) - len(accepted),
        "ended": len(done),
        "late": sum(took > late_s for took in seconds),
        "twice": sum(finals[one.request] > 1 for one in sent),
        "held_though_ended": len(done & (broker.unacked | broker.queued)),
        "run_again": len({request for (request, _), count in runs.items() if count > 1 and request in accepted}),
        "returning": {"queued": len(queued), "unacked": len(unacked)},
        "failed": dict(Counter(broker.failed[request] for request in failed)),
        "nowhere": len(missing - unacked - queued - failed),
        "seconds": percentiles(seconds),
        "kills": _affected(kills, accepted, notes, ends),
    }


def ended(notes: Sequence[Note]) -> dict[int, float]:
    """Returns when each request's last task first ran to its end."""
    ends: dict[int, float] = {}
    for note in notes:
        if note.event == "end" and note.stage == LAST:
            ends.setdefault(note.request, note.at)
    return ends


def _affected(
    kills: Sequence[Kill], accepted: Mapping[int, Sent], notes: Sequence[Note], ends: Mapping[int, float]
) -> dict[str, Any]:
    """Returns what the kills of each kind affected; ``seconds``: from the kill to the request's end.

    A request counts with the first kill that affected it: one that is missing is unfinished at every later kill, too.
    """
    first: dict[int, Kill] = {}
    for kill in sorted(kills, key=lambda kill: kill.at):
        affected = (
            running(notes, kill) & accepted.keys()
            if kill.kind != "store"
            else {request for request, one in accepted.items() if one.at < kill.at}
        )
        for request in affected:
            if ends.get(request, kill.at + 1) > kill.at:
                first.setdefault(request, kill)
    counts: dict[str, Any] = {}
    for kind, count in sorted(Counter(kill.kind for kill in kills).items()):
        own = {request: kill.at for request, kill in first.items() if kill.kind == kind}
        back = [ends[request] - at for request, at in own.items() if request in ends]
        counts[kind] = {"count": count, "affected": len(own), "back": len(back), "seconds": percentiles(back)}
    return counts


def running(notes: Iterable[Note], kill: Kill) -> set[int]:
    """Returns the requests that the killed processes were running."""
    last = {note.pid: note for note in notes if note.pid in kill.pids and note.at <= kill.at}
    return {note.request for note in last.values() if note.event == "start"}


def percentiles(seconds: Iterable[float]) -> dict[str, float | None]:
    """Returns median, 99th percentile and maximum; None if there are no values."""
    values = np.array(list(seconds))
    if not values.size:
        return {"p50": None, "p99": None, "max": None}
    p50, p99, most = np.percentile(values, [50, 99, 100])
    return {"p50": round(float(p50), 3), "p99": round(float(p99), 3), "max": round(float(most), 3)}
