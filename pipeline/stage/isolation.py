"""Finding the guilty rows of a batch that raised."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from pipeline.contracts.failures import NotNow, StageFailure, describe
from pipeline.contracts.work import Output

Performed = Output | BaseException
"""What a stage made of one row."""


def ends_process(answer: Performed) -> StageFailure | None:
    """The failure, if it is one after which this process can be trusted no more."""
    return answer if isinstance(answer, StageFailure) and answer.ends_process else None


def usable(error: BaseException) -> BaseException:
    """The failure as it is if it can be judged by what it says of itself; else an ordinary error with its words.

    Its class may come from anywhere: it is asked here, once, where nothing of the batch is decided yet.
    """
    try:
        if error.__class__ is type(error) and (not isinstance(error, StageFailure) or _makes_sense(error)):
            return error
    except BaseException:  # noqa: BLE001, S110 - then it cannot be used
        pass
    return RuntimeError(f"{type.__repr__(type(error))[8:-2]}: {describe(error)}")


def _makes_sense(failure: StageFailure) -> bool:
    flags = (failure.retryable, failure.whole_batch, failure.ends_process)
    pause_s = failure.pause_s if isinstance(failure, NotNow) else 0.0
    # The category is the name of a counter.
    return failure.category.isidentifier() and all(type(flag) is bool for flag in flags) and 0 <= pause_s < math.inf


def isolate(perform: Callable[[Sequence[Any]], Sequence[Performed]], rows: Sequence[Any]) -> list[Performed]:
    """Outputs of ``rows``; when a batch raises, halve it until the rows that raise stand alone.

    One guilty row in n costs at most 2*log2(n) extra passes. A failure that says it is not about one row
    (``whole_batch``) is every row's; if it ends the process as well, nothing else is tried in it.
    """
    if not rows:
        return []
    try:
        answers = list(perform(rows))
        if len(answers) != len(rows):
            raise RuntimeError(f"the stage returned {len(answers)} outputs for {len(rows)} inputs")
        # Inline: it is done for each row of each stage. What an output's body holds is for the ledger to say.
        return [
            answer
            if type(answer) is Output and type(answer.scored_by) is str and type(answer.anomalies) in (tuple, list)
            else _failure(answer)
            for answer in answers
        ]
    except Exception as error:  # noqa: BLE001 - whatever a stage raises is judged, not passed on
        failure = usable(error)
        if len(rows) == 1 or (isinstance(failure, StageFailure) and failure.whole_batch):
            return [failure] * len(rows)
    middle = len(rows) // 2
    answers = isolate(perform, rows[:middle])
    if any(failure.whole_batch for failure in map(ends_process, answers) if failure is not None):
        return answers + [NotNow("the process is replaced before it came to this row", 0.0)] * (len(rows) - middle)
    return answers + isolate(perform, rows[middle:])


def _failure(answer: Any) -> BaseException:
    """What a stage returned for a row in place of an output."""
    if issubclass(type(answer), BaseException):
        return usable(answer)
    what = "an output with fields of the wrong types" if type(answer) is Output else type(answer).__name__
    return TypeError(f"the stage returned {what} for this row")
