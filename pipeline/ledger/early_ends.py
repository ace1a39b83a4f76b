"""Ends from outside a worker: deadlines that passed, and cancelling. The arguments of ``end_early.lua``."""

from pipeline.contracts.lanes import ModelRef
from pipeline.contracts.stages import Stage, State
from pipeline.ledger.records import End, Entry, end_of
from pipeline.settings import Settings


def end_early_head(settings: Settings, state: State, *, only_late: bool) -> list[object]:
    """The arguments of ``end_early.lua`` before the requests."""
    lives = round(settings.result_ttl * 1000), round(settings.idempotency_ttl * 1000)
    return [*lives, str(state), "1" if only_late else "0"]


def end_early_arguments(request_id: bytes, entry: Entry, state: State, end: End) -> tuple[object, ...]:
    """The arguments of ``end_early.lua`` for one request."""
    ref: ModelRef = entry.header.ref
    return (
        request_id,
        ref.lane(Stage.PREPROCESS),
        ref.lane(Stage.SCORING),
        end_of(state, entry.prefix, entry.progress, end),
    )
