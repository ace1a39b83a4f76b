"""Every class of failure has one outcome, and delays stay within their bounds."""

import random

import pytest

from pipeline.contracts.attempts import NO_ATTEMPTS, Attempt, Attempts
from pipeline.contracts.failures import (
    ArtifactCorrupt,
    ArtifactMissing,
    InvalidInput,
    NumericFailure,
    Panic,
    SoftLimit,
)
from pipeline.contracts.stages import Priority, Stage, State, waiting_score
from pipeline.contracts.work import Ended, Header, Progress, RetryLater, Work
from pipeline.settings import Settings, read_settings
from pipeline.worker.judge import backoff_ms, exhausted, judge

NOW = 1_800_000_000_000
SETTINGS = read_settings({})


def work(attempts: Attempts = NO_ATTEMPTS, *, left_ms: int = 3_600_000) -> Work:
    header = Header("credit-default", "1", b"", "", 1, 3_600_000, 0, True)
    return Work(b"i" * 16, waiting_score(Priority.NORMAL, NOW + left_ms), header, Progress(0), {}, b"", attempts)


def judged(error: BaseException, given: Work | None = None, stage: Stage = Stage.SCORING) -> Ended | RetryLater:
    return judge(error, given or work(), stage, NOW, SETTINGS, random.Random(1))


@pytest.mark.parametrize(
    ("error", "state", "category"),
    [
        (InvalidInput("Income: was -1"), State.INVALID, "input"),
        (NumericFailure("not a number"), State.DEAD, "numeric"),
        (ArtifactCorrupt("SHA-256 differs"), State.DEAD, "model"),
    ],
)
def test_what_trying_again_cannot_help_ends_at_once(error: Exception, state: State, category: str) -> None:
    outcome = judged(error)
    assert isinstance(outcome, Ended)
    assert (outcome.state, outcome.error["category"], outcome.error["retryable"]) == (state, category, False)


@pytest.mark.parametrize(
    ("error", "category"),
    [
        (RuntimeError("x"), "unknown"),
        (MemoryError(), "oom"),
        (ConnectionResetError("x"), "network"),
        (TimeoutError("x"), "network"),
        (OSError("x"), "store"),
        (ArtifactMissing("x"), "model"),
        (SoftLimit("x"), "hang"),
        (Panic("x"), "crash"),
    ],
)
def test_the_rest_is_retried_until_the_attempts_are_used_up(error: Exception, category: str) -> None:
    outcome = judged(error)
    for expected in (1, 2):
        assert isinstance(outcome, RetryLater)
        assert outcome.attempts.starts == expected == len(outcome.attempts.errors)
        assert outcome.attempts.suspect == isinstance(error, SoftLimit | Panic)
        outcome = judged(error, work(outcome.attempts))
    assert isinstance(outcome, Ended)
    assert (outcome.state, outcome.error["category"]) == (State.DEAD, category)
    assert [entry.n for entry in outcome.attempts.errors] == [1, 2, 3]


@pytest.mark.parametrize("stage", list(Stage))
def test_deadlines_are_the_sweepers(stage: Stage) -> None:
    """Others may wait for the same computation, with more time."""
    assert isinstance(judged(RuntimeError("boom"), work(left_ms=-5000), stage), RetryLater)


def test_delays_grow_with_full_jitter_up_to_the_cap() -> None:
    rng = random.Random(7)
    for starts in range(1, 60):
        bound = min(SETTINGS.backoff_cap_s, SETTINGS.backoff_base_s * 2 ** (starts - 1)) * 1000
        delays = [backoff_ms(starts, SETTINGS, rng) for _ in range(200)]
        assert 0 <= min(delays) < bound * 0.2
        assert bound * 0.8 < max(delays) <= bound


@pytest.mark.parametrize(
    ("attempts", "category"),
    [
        (Attempts(starts=2), None),
        (Attempts(losses=19), None),
        (Attempts(starts=3, errors=(Attempt(3, NOW, "scoring", "died", "SIGSEGV", "crash"),)), "crash"),
        (Attempts(starts=3, errors=(Attempt(3, NOW, "scoring", "too long", None, "hang"),)), "hang"),
        (Attempts(losses=20), "crash"),
    ],
)
def test_a_request_charged_by_the_script_until_its_attempts_are_used_up_ends_at_its_next_claim(
    attempts: Attempts, category: str | None
) -> None:
    end = exhausted(work(attempts), Stage.SCORING, SETTINGS)
    assert (end and end.error["category"]) == category


def test_a_long_error_is_kept_short() -> None:
    outcome = judged(RuntimeError("x" * 10_000))
    assert isinstance(outcome, RetryLater)
    assert len(outcome.attempts.errors[0].error) == 500


class Silent(RuntimeError):
    """Raises when it is asked for its text, in a way that is no Exception."""

    def __str__(self) -> str:
        raise SystemExit(3)


class Nonsense(RuntimeError):
    """Its text is no text."""

    def __str__(self) -> str:
        return 7  # type: ignore[return-value]  # noqa: PLE0307


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (Silent(), "an error that raises SystemExit when it is asked for its text"),
        (Nonsense(), "an error that raises TypeError when it is asked for its text"),
        (ExceptionGroup("several", [ValueError("a"), TypeError("b")]), "ExceptionGroup: several (2 sub-exceptions)"),
        (RecursionError("too deep"), "RecursionError: too deep"),
        (StopIteration(7), "StopIteration: 7"),
        (RuntimeError("\ud800"), "RuntimeError: ?"),
        (Panic("PanicException: not a char boundary"), "PanicException: not a char boundary"),
    ],
)
def test_any_error_can_be_charged_and_read(error: BaseException, says: str) -> None:
    outcome = judged(error)
    assert isinstance(outcome, RetryLater)
    assert outcome.attempts.errors[0].error == says
    assert outcome.attempts.suspect == isinstance(error, Panic)


def test_settings_are_what_the_test_thinks() -> None:
    assert isinstance(SETTINGS, Settings)
    assert (SETTINGS.max_attempts, SETTINGS.max_losses) == (3, 20)
