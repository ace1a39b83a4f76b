"""What the ledger's values look like: msgpack of four parts, the same at every step of a request's life.

``[kind, header, carry, body]`` where ``kind`` is ``accepted``, the stage that wrote the output, or the state that
ended the request; ``body`` is the features, the stage's output, or the end (see ``End``).
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgpack

from pipeline.contracts.ids import accepted_ms, rfc3339, to_text
from pipeline.contracts.problems import InvalidRequest
from pipeline.contracts.stages import ENDS, Priority, Stage, State
from pipeline.contracts.status import Failure, Status
from pipeline.contracts.work import NO_ATTEMPTS, Attempt, Attempts, Carry, Header

ACCEPTED = "accepted"
MAX_DEPTH = 32
_END_KINDS = frozenset(str(state) for state in ENDS)


class End(NamedTuple):
    """How a request ended. ``attempts``: starts in all, the last one included."""

    finished_ms: float
    result: dict[str, Any] | None
    error: Failure | None
    attempts: int
    scored_by: str | None = None
    degraded: bool = False


class Entry(NamedTuple):
    """One stored value, unpacked."""

    kind: str
    header: Header
    carry: Carry
    body: Any

    @property
    def ended(self) -> bool:
        """Whether this is the end of a request."""
        return self.kind in _END_KINDS


def _plain_number(value: Any) -> Any:
    """Msgpack has no integers beyond 64 bits: as a float it is out of every domain, and says so in validation."""
    if isinstance(value, int):
        try:
            return float(value)
        except OverflowError:
            return float("inf") if value > 0 else float("-inf")
    raise TypeError(f"{type(value).__name__} is not a JSON value")


def pack_entry(kind: str, header: Header, carry: Carry, body: Any) -> bytes:
    """The stored form of a value."""
    return msgpack.packb((kind, header, carry, body))


def pack_features(header: Header, features: Mapping[str, Any]) -> bytes:
    """The record of a request as accepted; InvalidRequest if the features are not JSON values."""
    try:
        _check_json(features)
        return msgpack.packb((ACCEPTED, header, (0, (), ()), features), default=_plain_number)
    except (TypeError, ValueError, UnicodeError) as error:
        reason = f"cannot be stored: {error}"
        raise InvalidRequest(f"features {reason}", errors=[{"pointer": "/features", "message": reason}]) from error


_PLAIN = frozenset({str, int, float, bool, type(None)})


def _check_json(features: Mapping[str, Any]) -> None:
    """TypeError or ValueError for what some reader of the record could not follow."""
    level: list[Any] = [features]
    for _ in range(MAX_DEPTH + 1):  # the features themselves are the first level
        nested = []
        for outer in level:
            if isinstance(outer, Mapping):
                for name in outer:
                    if type(name) is not str:
                        raise TypeError(f"the name {name!r} is not text")
            for value in outer.values() if isinstance(outer, Mapping) else outer:
                if type(value) in _PLAIN:
                    continue
                if isinstance(value, Mapping | list | tuple):
                    nested.append(value)
                elif isinstance(value, bytes | bytearray | memoryview | msgpack.ExtType | msgpack.Timestamp):
                    raise TypeError(f"{type(value).__name__} is not a JSON value")
        if not nested:
            return
        level = nested
    raise ValueError(f"nested more than {MAX_DEPTH} levels deep")


def unpack_entry(blob: bytes) -> Entry:
    """A stored value, taken apart."""
    kind, header, carry, body = msgpack.unpackb(blob, strict_map_key=False)
    return Entry(kind, Header(*header), Carry(*carry), body)


def pack_attempts(attempts: Attempts) -> bytes:
    """Attempts as JSON, which the scripts can read too."""
    document = {
        "starts": attempts.starts,
        "losses": attempts.losses,
        "suspect": attempts.suspect,
        "errors": [entry._asdict() for entry in attempts.errors],
    }
    return json.dumps(document).encode()


def unpack_attempts(blob: bytes | None) -> Attempts:
    """Attempts from their stored form; none if there is nothing."""
    if not blob:
        return NO_ATTEMPTS
    try:
        document = json.loads(blob)
    except ValueError:
        return NO_ATTEMPTS  # as the scripts read it: what nobody understands must not stop a lane
    errors = tuple(
        Attempt(entry["n"], int(entry["at"]), entry["stage"], entry["error"], entry.get("signal"))
        for entry in document["errors"] or ()
    )
    return Attempts(int(document["starts"]), int(document["losses"]), bool(document["suspect"]), errors)


def end_of(
    state: State,
    header: Header,
    carry: Carry,
    end: End,
) -> bytes:
    """A request's record once it has ended."""
    return pack_entry(str(state), header, carry, end)


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
) -> Status:
    """The status document. ``latest``: the newest stage output of an unfinished request."""
    header = record.header
    if record.ended:
        state, carry, end = State(record.kind), record.carry, End(*record.body)
        tries = end.attempts
    else:
        state = running_state(latest.kind if latest else None, waits_first=waits_first)
        carry = latest.carry if latest else record.carry
        end = End(0, None, None, 0)
        tries = attempts.starts + (state is not State.QUEUED)
    return Status(
        request_id=to_text(request_id),
        state=str(state),  # type: ignore[typeddict-item]
        model=header.model,
        model_version=header.version,
        result=end.result,
        error=end.error,
        degraded=end.degraded,
        scored_by=end.scored_by,
        cached=False,
        joined=False,
        anomalies=list(carry.anomalies),  # type: ignore[arg-type]
        attempts=tries,
        generation=header.generation,
        priority=Priority(header.priority).label,  # type: ignore[typeddict-item]
        position=None,
        eta_s=None,
        submitted_at=rfc3339(accepted_ms(request_id)) or "",
        finished_at=rfc3339(end.finished_ms) if record.ended else None,
        timings={stage: {"waited_ms": waited, "worked_ms": worked} for stage, waited, worked in carry.timings},
    )
