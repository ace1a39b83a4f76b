"""The life story of a failing request: what becomes of it when its stage raises, or its process dies under it.

1.  A stage raises, or returns a failure in the place of one row. If a whole batch raised, ``isolate`` halves it until
    the offending rows stand alone, and only they are judged. What is no Exception (a library's panic, ``sys.exit``) is
    the failure of its row as well; the process is replaced once the batch is settled.

2.  ``judge`` looks at the class of the failure, and the first of these that fits is the outcome:

    * ``InvalidInput``: the request ends as ``invalid``. It is the producer's fault, so there is nothing for an operator
      to replay, and no dead letter.
    * ``NotNow``: the request waits, and is not charged. Something that it needs is known to be down, so the failure
      says nothing about the request, and an outage may last longer than any number of attempts.
    * not ``retryable``: the request ends as ``dead``. The same code would give the same failure for the same input.
    * all attempts are used up: the request ends as ``dead``. Something about it fails again and again.
    * anything else: the attempt is charged, and the request runs again after a random delay. Most faults pass.

3.  All charged retries of a lane together stay within its budget (``requeue_due.lua``): when everything fails, trying
    everything again would double the load. A retry that was not charged is outside the budget.

4.  A process that dies judges nothing. Its parent sees the death, or kills it at the hard limit, and releases its
    batch with a start charged (``release.lua``). Each request of the batch is a suspect from then on and runs alone, so
    that the others stop paying for one. A batch that the process held but had not begun is not charged: it cannot be
    the cause.

5.  A whole worker that vanishes (machine, network) has no parent that sees its death. The sweeper releases its batches
    once its heartbeat is missing, with a loss charged. There is no evidence against these requests, so losses have a
    larger limit than starts, and only the second makes a suspect.

6.  A worker that stops in order, or drains a sick device, gives back what it holds. Nothing is charged.

7.  A request that was charged without being judged (4, 5) may have used up its attempts. ``exhausted`` finds it at its
    next claim, before its stage runs: it ends as ``dead``.

8.  A retry that would come after the deadline is not made: the sweeper ends the request as ``expired``. The judge does
    not look at deadlines, because other requests, with more time, may wait for the same computation.

9.  A request that ends as ``dead`` leaves a dead letter with everything: its input, the stage, and each attempt's error
    and time. A replay resumes at that stage.

What each failure charges is defined once for all of these: ``pipeline.contracts.attempts``.

Pure functions: no store, no clock, no stage.
"""

import random

from pipeline.contracts.attempts import NO_ATTEMPTS, Attempts
from pipeline.contracts.failures import InvalidInput, NotNow, StageFailure, describe
from pipeline.contracts.stages import Stage, State
from pipeline.contracts.status import Failure
from pipeline.contracts.work import Ended, Outcome, RetryLater, Work
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
    """The outcome of one request after its stage failed with ``error`` (``now_ms``: the server's time)."""
    category, message = category_of(error), describe(error)
    if isinstance(error, InvalidInput):
        return Ended(State.INVALID, Failure(category=category, stage=str(stage), message=message, retryable=False))

    if isinstance(error, NotNow):
        pause_s = error.pause_s + rng.uniform(0, error.pause_s)  # jitter: else all come back at once
        return RetryLater(round(1000 * pause_s), work.attempts, charged=False, reason=message)

    suspect = isinstance(error, StageFailure) and error.ends_process
    attempts = work.attempts.charge(int(now_ms), str(stage), category, message, suspect=suspect)
    retryable = not isinstance(error, StageFailure) or error.retryable
    failure = Failure(category=category, stage=str(stage), message=message, retryable=retryable)
    if not retryable or _used_up(attempts, settings):
        return Ended(State.DEAD, failure, attempts)

    return RetryLater(backoff_ms(attempts.starts, settings, rng), attempts)


def exhausted(work: Work, stage: Stage, settings: Settings) -> Ended | None:
    """The end of a claimed request that may not run: its attempts are used up, or it cannot be read. None: it may."""
    attempts = work.attempts
    if attempts is NO_ATTEMPTS and not work.unreadable:
        return None  # the common case, first
    if work.unreadable:
        failure = Failure(category="store", stage=str(stage), message=work.unreadable, retryable=False)
        return Ended(State.DEAD, failure, attempts)
    used_up = _used_up(attempts, settings)
    if not used_up:
        return None
    last = attempts.errors[-1] if attempts.errors else None
    reason = last.error if last else "no error is known"
    if used_up == "starts":
        category = last.category if last else "crash"
        message = f"given up after {attempts.starts} failed starts; the last one: {reason}"
    else:
        category = "crash"
        message = f"given up after its worker vanished {attempts.losses} times; the last time: {reason}"
    return Ended(State.DEAD, Failure(category=category, stage=str(stage), message=message, retryable=True), attempts)


def _used_up(attempts: Attempts, settings: Settings) -> str:
    """Which of the two limits a request has reached: ``starts``, ``losses``, or none (empty)."""
    if attempts.starts >= settings.max_attempts:
        return "starts"
    return "losses" if attempts.losses >= settings.max_losses else ""
