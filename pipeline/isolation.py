"""Finding the guilty rows of a batch that raised."""

from collections.abc import Callable, Sequence
from typing import Any

from pipeline.contracts.failures import NotNow, StageFailure
from pipeline.contracts.work import Output

Performed = Output | BaseException
"""What a stage made of one row."""


def ends_process(answer: Performed) -> StageFailure | None:
    """The failure, if it is one after which this process can be trusted no more."""
    return answer if isinstance(answer, StageFailure) and answer.ends_process else None


def isolate(perform: Callable[[Sequence[Any]], Sequence[Performed]], rows: Sequence[Any]) -> list[Performed]:
    """Outputs of ``rows``; when a batch raises, halve it until the rows that raise stand alone.

    One guilty row in n costs at most 2*log2(n) extra passes. A failure that says it is not about one row
    (``whole_batch``) is every row's. After one that ends the process, nothing else is tried in it.
    """
    if not rows:
        return []
    try:
        answers = list(perform(rows))
        if len(answers) != len(rows):
            raise RuntimeError(f"the stage returned {len(answers)} outputs for {len(rows)} inputs")
        return answers
    except Exception as error:  # noqa: BLE001 - whatever a stage raises is judged, not passed on
        if len(rows) == 1 or (isinstance(error, StageFailure) and error.whole_batch):
            return [error] * len(rows)
    middle = len(rows) // 2
    answers = isolate(perform, rows[:middle])
    if any(map(ends_process, answers)):
        return answers + [NotNow("the process is replaced before it came to this row", 0.0)] * (len(rows) - middle)
    return answers + isolate(perform, rows[middle:])
