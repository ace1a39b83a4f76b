"""The status document of a request, made from its record and the latest output of a stage."""

from pipeline.contracts.attempts import NO_ATTEMPTS, Attempts
from pipeline.contracts.ids import accepted_ms, rfc3339, to_text
from pipeline.contracts.stages import FINAL_STATES, LABELS, Stage, State
from pipeline.contracts.status import Status
from pipeline.ledger.constants import HAS_FLIGHT, WAS_CACHED
from pipeline.ledger.records import End, Entry

_NO_END = End(0, None, None, 0)
_END_KINDS = frozenset(str(state) for state in FINAL_STATES)


def running_state(output_kind: str | None, *, waits_first: bool) -> State:
    """Where an unfinished request stands, from the latest output and whether it waits at the first stage."""
    if output_kind is None:
        return State.QUEUED if waits_first else State.PREPROCESSING
    return State.SCORING if output_kind == Stage.PREPROCESS else State.POSTPROCESSING


def status_of(
    request_id: bytes,
    record: Entry,
    *,
    latest: Entry | None = None,
    waits_first: bool = True,
    attempts: Attempts = NO_ATTEMPTS,
    position: int | None = None,
    eta_s: float | None = None,
) -> Status:
    """The status document. ``latest``: the newest stage output of an unfinished request."""
    kind, header, progress, body, prefix = record
    accepted, flags = accepted_ms(request_id), prefix[0]
    state: str
    if kind in _END_KINDS:
        state, end = kind, End(*body)
        tries, finished_at = end.attempts, rfc3339(max(end.finished_ms, accepted))
    else:
        state = str(running_state(latest.kind if latest else None, waits_first=waits_first))
        progress = latest.progress if latest else progress
        end, finished_at = _NO_END, None
        tries = attempts.starts + (state != State.QUEUED)
    # Not Status(...), which takes half as long again: a producer makes one for each request.
    return {
        "request_id": to_text(request_id),
        "state": state,  # type: ignore[typeddict-item]
        "model": header.model,
        "model_version": header.version,
        "result": end.result,
        "error": end.error,
        "degraded": end.degraded,
        "scored_by": end.scored_by,
        "cached": flags & WAS_CACHED != 0,
        "joined": flags & HAS_FLIGHT != 0,
        "anomalies": list(progress.anomalies),  # type: ignore[arg-type]
        "attempts": tries,
        "generation": header.generation,
        "priority": LABELS[header.priority],  # type: ignore[typeddict-item]
        "position": position,
        "eta_s": eta_s,
        "submitted_at": rfc3339(accepted) or "",
        "finished_at": finished_at,
        "timings": {stage: {"waited_ms": waited, "worked_ms": worked} for stage, waited, worked in progress.timings},
    }
