"""The story of a failure: what becomes of a request whose stage raised, or whose process died under it.

1. A stage raises, or returns a failure in the place of one row. If the whole batch raised, the runner halves it
   until the guilty rows stand alone; only they are judged. What is no Exception (a library's panic, sys.exit) is the
   failure of its row as well, and the process is replaced once the batch is settled.
2. ``judge`` looks at the failure's class: the producer's fault ends as ``invalid``; what trying again cannot help
   ends as ``dead``; everything else is retried after a random delay, until ``max_attempts`` starts have failed.
   What waits for something outside that is known to be down uses up no attempt. All other retries together stay within
   their lane's budget (``requeue_due.lua``): when everything fails, trying everything again would double the load.
3. A process that dies cannot be asked. Its batch is released with the attempt charged (``release.lua``), its
   requests run one by one from then on, and who has used up the attempts is found ``exhausted`` at the next claim.
4. A retry that would come after the deadline is not made: the request ends as ``expired``.
5. A dead letter keeps everything: the input, the stage, each attempt's error and time. A replay resumes there.

Pure functions: no store, no clock, no stage.
"""

import random

from pipeline.contracts.failures import InvalidInput, NotNow, StageFailure, describe
from pipeline.contracts.stages import Stage, State
from pipeline.contracts.status import Failure
from pipeline.contracts.work import NO_ATTEMPTS, Ended, Outcome, RetryLater, Work
from pipeline.settings import Settings

# Failures that are not a stage's own: the first class that fits names the category. All of them are retried.
CATEGORIES: tuple[tuple[type[BaseException], str], ...] = (
    (MemoryError, "oom"),
    (TimeoutError, "network"),
    (ConnectionError, "network"),
    (OSError, "store"),
)


def category_of(error: BaseException) -> str:
    """The word for this kind of failure in documents and counters."""
    if isinstance(error, StageFailure):
        return error.category
    return next((word for kind, word in CATEGORIES if isinstance(error, kind)), "unknown")


def backoff_ms(starts: int, settings: Settings, rng: random.Random) -> int:
    """Delay before the next attempt: exponential, capped, with full jitter (uniform from zero).

    See "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    bound = min(settings.backoff_cap_s, settings.backoff_base_s * 2 ** min(starts - 1, 32))
    return round(rng.uniform(0, bound) * 1000)


def judge(
    error: BaseException, work: Work, stage: Stage, now_ms: float, settings: Settings, rng: random.Random
) -> Outcome:
    """What becomes of one request after ``error`` (``now_ms``: the server's time)."""
    category, message = category_of(error), describe(error)
    if isinstance(error, InvalidInput):
        return Ended(State.INVALID, Failure(category=category, stage=str(stage), message=message, retryable=False))

    if isinstance(error, NotNow):
        pause_s = error.pause_s + rng.uniform(0, error.pause_s)  # not all at once
        return RetryLater(round(1000 * pause_s), work.attempts, charged=False, reason=message)

    suspect = isinstance(error, StageFailure) and error.ends_process
    attempts = work.attempts.charge(int(now_ms), str(stage), category, message, suspect=suspect)
    retryable = not isinstance(error, StageFailure) or error.retryable
    failure = Failure(category=category, stage=str(stage), message=message, retryable=retryable)
    if not retryable or attempts.starts >= settings.max_attempts:
        return Ended(State.DEAD, failure, attempts)

    delay_ms = backoff_ms(attempts.starts, settings, rng)
    # If its time runs out before that, the sweeper ends it as expired: it knows the deadlines of all who wait for it.
    return RetryLater(delay_ms, attempts)


def exhausted(work: Work, stage: Stage, settings: Settings) -> Ended | None:
    """The end of a request that has used up its attempts while nobody was left to judge it; None if it may run."""
    attempts = work.attempts
    if attempts is NO_ATTEMPTS and not work.unreadable:
        return None  # as mostly
    if work.unreadable:
        failure = Failure(category="store", stage=str(stage), message=work.unreadable, retryable=False)
        return Ended(State.DEAD, failure, attempts)
    last = attempts.errors[-1] if attempts.errors else None
    reason = last.error if last else "no error is known"
    if attempts.starts >= settings.max_attempts:
        category = last.category if last else "crash"
        message = f"given up after {attempts.starts} failed starts; the last one: {reason}"
    elif attempts.losses >= settings.max_losses:
        category = "crash"
        message = f"given up after its worker vanished {attempts.losses} times; the last time: {reason}"
    else:
        return None
    return Ended(State.DEAD, Failure(category=category, stage=str(stage), message=message, retryable=True), attempts)
