"""Finds the offending rows of a batch that raised, and the failures by which they can be judged."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from pipeline.contracts.failures import NotNow, StageFailure, describe
from pipeline.contracts.work import Output

Performed = Output | BaseException
"""What a stage made of one row."""


def ends_process(answer: Performed) -> StageFailure | None:
    """The failure, if after it this process can be trusted no more; else None."""
    return answer if isinstance(answer, StageFailure) and answer.ends_process else None


def usable(error: BaseException) -> BaseException:
    """The failure itself if it can be judged by its class and attributes; else an ordinary error with its text.

    Its class may come from any library and lie or raise. It is asked here, once, before anything is decided about the
    batch.
    """
    try:
        if error.__class__ is type(error) and (not isinstance(error, StageFailure) or _makes_sense(error)):
            return error
    except BaseException:  # noqa: BLE001, S110 - it cannot be judged by what it says
        pass
    return RuntimeError(f"{type.__repr__(type(error))[8:-2]}: {describe(error)}")


def _makes_sense(failure: StageFailure) -> bool:
    flags = (failure.retryable, failure.whole_batch, failure.ends_process)
    pause_s = failure.pause_s if isinstance(failure, NotNow) else 0.0
    # The category is the name of a counter.
    return failure.category.isidentifier() and all(type(flag) is bool for flag in flags) and 0 <= pause_s < math.inf


def isolate(perform: Callable[[Sequence[Any]], Sequence[Performed]], rows: Sequence[Any]) -> list[Performed]:
    """The outputs of ``rows``, with the failure in the place of each row that has none.

    A batch that raises is halved until the rows that raise stand alone: one offending row in n costs at most 2*log2(n)
    extra passes. A failure that says that it is not about one row (``whole_batch``) becomes the failure of every row;
    if it ends the process as well, nothing else is tried in this process.
    """
    if not rows:
        return []
    try:
        answers = list(perform(rows))
        if len(answers) != len(rows):
            raise RuntimeError(f"the stage returned {len(answers)} outputs for {len(rows)} inputs")
        # Inline, because it is done for each row of each stage. The ledger finds what cannot be stored.
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
    """The failure of a row for which a stage returned no output."""
    if issubclass(type(answer), BaseException):
        return usable(answer)
    what = "an output with fields of the wrong types" if type(answer) is Output else type(answer).__name__
    return TypeError(f"the stage returned {what} for this row")
