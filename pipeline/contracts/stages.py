"""Stages, states and priorities: the vocabulary of folders, queues, tasks, metrics and documents."""

from enum import IntEnum, StrEnum


class Stage(StrEnum):
    """The three services, in the order in which a request passes them."""

    PREPROCESS = "preprocess"
    SCORING = "scoring"
    POSTPROCESS = "postprocess"

    @property
    def following(self) -> "Stage | None":
        """The stage that takes over after this one; None after the last."""
        return _FOLLOWING[self]


_FOLLOWING: dict[Stage, Stage | None] = dict(zip(Stage, [*list(Stage)[1:], None], strict=True))


class State(StrEnum):
    """Where a request stands, as the producer sees it. Moves only go forward, except by a replay."""

    QUEUED = "queued"
    PREPROCESSING = "preprocessing"
    SCORING = "scoring"
    POSTPROCESSING = "postprocessing"
    SUCCEEDED = "succeeded"
    INVALID = "invalid"
    DEAD = "dead"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


FINAL_STATES = frozenset({State.SUCCEEDED, State.INVALID, State.DEAD, State.EXPIRED, State.CANCELLED})


class Priority(IntEnum):
    """Lower values are claimed first."""

    HIGH = 0
    NORMAL = 1
    LOW = 2

    @property
    def label(self) -> str:
        """The name on the wire."""
        return LABELS[self]

    @classmethod
    def of(cls, label: str) -> "Priority":
        """The priority of a wire name; KeyError if there is none."""
        return _BY_LABEL[label]


LABELS = tuple(priority.name.lower() for priority in Priority)
"""Priorities' names on the wire, by their values."""
_BY_LABEL = dict(zip(LABELS, Priority, strict=True))


# A waiting entry's score orders a lane by priority, then deadline; equal scores fall back to the id, which is age.
# 2 bits of priority above 43 bits of milliseconds are exact in the double that a sorted set keeps.
PRIORITY_STEP = 1 << 43


def waiting_score(priority: Priority, deadline_ms: int) -> int:
    """The sorted-set score of a waiting request (``deadline_ms``: Unix milliseconds)."""
    return priority * PRIORITY_STEP + deadline_ms


def deadline_of(score: int) -> int:
    """The deadline (Unix milliseconds) inside a waiting score."""
    return score % PRIORITY_STEP
