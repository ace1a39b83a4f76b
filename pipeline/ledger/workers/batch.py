"""A claimed batch, as a worker holds it, and how it is read from what the scripts return."""

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pipeline.contracts.attempts import NO_ATTEMPTS, Attempts
from pipeline.contracts.lanes import Lane
from pipeline.contracts.stages import Priority, Stage, deadline_of
from pipeline.contracts.work import Ended, Header, Links, Progress, Work
from pipeline.ledger.records import ACCEPTED, pack_prefix, tenant_of, unpack_attempts, unpack_entry

INPUT_KINDS = {Stage.PREPROCESS: ACCEPTED, Stage.SCORING: str(Stage.PREPROCESS), Stage.POSTPROCESS: str(Stage.SCORING)}
"""The kind of value that is a stage's input."""


class Stray(NamedTuple):
    """A request that stands in a lane although it is past that stage: its stored value, and the kind of that."""

    id: bytes
    score: bytes
    blob: bytes
    kind: str


@dataclass(slots=True)
class Batch:
    """A claimed batch. ``claimed_ms`` is the server's time; ``clock`` ours at that moment (monotonic seconds).

    ``worked_ms``: how long its stage took. ``strays``: requests that a stopped script has left in the lane (see
    ``lua/prelude/base.lua``). No stage runs them; they go on from where they are when the batch is settled.
    ``unstorable``: how requests end whose output the ledger cannot hold; known once the batch is settled.
    """

    lane: Lane
    field: str
    incarnation: str
    claimed_ms: int
    clock: float
    works: list[Work]
    worked_ms: float = 0.0
    strays: list[Stray] = dataclasses.field(default_factory=list)
    unstorable: dict[bytes, Ended] = dataclasses.field(default_factory=dict)

    def server_ms(self) -> float:
        """The server's time now, to within the time the claim took."""
        return self.claimed_ms + (time.monotonic() - self.clock) * 1000


def batch_of(lane: Lane, incarnation: str, reply: Sequence) -> Batch:
    """The batch that ``take`` in ``lanes.lua`` has claimed: now, field, ids, scores, blobs, attempts."""
    now, name, ids, scores, blobs, attempts = reply
    now_ms, input_kind = int(now), INPUT_KINDS[lane.stage]
    batch = Batch(lane, name.decode(), incarnation, now_ms, time.monotonic(), [])
    attempts = attempts or [None] * len(ids)
    for request_id, text, blob, tried in zip(ids, scores, blobs, attempts, strict=True):
        score = int(float(text))
        left_s = (deadline_of(score) - now_ms) / 1000
        known = unpack_attempts(tried) if tried else NO_ATTEMPTS
        try:
            kind, header, progress, body, prefix = unpack_entry(blob or b"")
        except (ValueError, TypeError) as error:
            batch.works.append(_unreadable(request_id, score, lane, blob or b"", known, left_s, error))
            continue
        if kind == input_kind:
            batch.works.append(Work(request_id, score, header, progress, body, blob, known, "", prefix, left_s))
        else:
            batch.strays.append(Stray(request_id, text, blob, kind))
    return batch


def handed_over(incarnation: str, lane: Lane, wake: Sequence[bytes]) -> Batch:
    """The batch in a wake, which is flat (see ``ring_now`` in ``lanes.lua``): now, field, then the four lists."""
    now, field, *lists = wake
    count = len(lists) // 4
    return batch_of(lane, incarnation, [now, field, *(lists[n * count :][:count] for n in range(4))])


def _unreadable(
    request_id: bytes, score: int, lane: Lane, blob: bytes, attempts: Attempts, left_s: float, error: Exception
) -> Work:
    """A request whose value cannot be taken apart. It would stop every batch that it is claimed with, so it ends."""
    model = lane.model
    header = Header(model.name, model.version, bytes.fromhex(model.digest), model.pool, Priority.LOW, 0, 0, True)
    reason = f"its stored form cannot be read: {type(error).__name__}: {error}"
    prefix = pack_prefix(header, Links(tenant=tenant_of(blob)))
    return Work(request_id, score, header, Progress(0), None, blob, attempts, reason, prefix, left_s)
