"""What the clients and the API share: what a submission is answered, and when a request has ended."""

from collections.abc import Iterable, Mapping

from pipeline.contracts.problems import Problem
from pipeline.contracts.stages import FINAL_STATES
from pipeline.contracts.status import Status
from pipeline.ledger.producers.submissions import Accepted, Known

__all__ = ["Accepted", "Answer", "Known", "has_ended", "told"]

Answer = Accepted | Known | Problem
"""To one request of several: it is in the ledger now, it was there already, or why it is not."""


def has_ended(status: Status) -> bool:
    """Whether the status is an end: it will not change any more, except by a replay."""
    return status["state"] in FINAL_STATES


def told(answers: Iterable[Answer], found: Mapping[bytes, Status | Problem]) -> list[Status | Problem]:
    """What to tell of each answer: what was found of its request, or how one that was just accepted begins."""
    return [
        answer if isinstance(answer, Problem) else found.get(answer.id) or answer.status()  # type: ignore[union-attr]
        for answer in answers
    ]
