"""One account of attempts: what the judge charges and what ``release.lua`` charges follow one definition."""

import random
from dataclasses import replace

import pytest

from pipeline.contracts.attempts import KEPT_ERRORS, NO_ATTEMPTS, SUSPECT_LOSSES, Attempts, Charge
from pipeline.contracts.failures import ArtifactMissing, NotNow, Panic, SoftLimit
from pipeline.contracts.stages import Stage
from pipeline.contracts.work import RetryLater
from pipeline.ledger.recovery import release_claims
from pipeline.ledger.workers.batch import Batch
from pipeline.ledger.workers.claims import Claims
from pipeline.worker.judge import category_of, judge
from tests.conformance.conftest import Ledger, LedgerMaker

STAGE = Stage.PREPROCESS
RAISED = [
    RuntimeError("boom"),
    MemoryError("no"),
    ArtifactMissing("not here yet"),
    SoftLimit("too long"),
    Panic("rust"),
]
RELEASED: list[tuple[Charge, str, str]] = [
    ("start", "crash", "SIGKILL"),
    ("start", "crash", ""),
    ("start", "hang", ""),
    ("loss", "crash", ""),
    ("none", "crash", ""),
]
BUDGET_S = 11
"""Longer than the window of the retry budget: every retry that is due goes back."""


@pytest.fixture
def patient(make_ledger: LedgerMaker) -> Ledger:
    """A ledger in which no number of failures ends a request."""
    return make_ledger(max_attempts="1000", max_losses="1000")


def claimed(ledger: Ledger, worker: Claims) -> Batch:
    ledger.turn_clock(BUDGET_S)
    ledger.sweeping.requeue_due_retries()
    batch = ledger.claim(worker)
    assert batch is not None
    return batch


def stage_raises(ledger: Ledger, worker: Claims, error: Exception) -> tuple[Attempts, Attempts]:
    """The judge charges what the stage raised. Returns the account before, and as it should be after."""
    batch = claimed(ledger, worker)
    (work,) = batch.works
    now_ms = round(batch.server_ms())
    outcome = judge(error, work, STAGE, now_ms, ledger.settings, random.Random(1))
    assert isinstance(outcome, RetryLater)
    ledger.settle(worker, batch, [replace(outcome, delay_ms=0)])
    suspect = isinstance(error, SoftLimit | Panic)
    text = str(error) if isinstance(error, ArtifactMissing | SoftLimit | Panic) else f"{type(error).__name__}: {error}"
    return work.attempts, work.attempts.charge(now_ms, STAGE, category_of(error), text, suspect=suspect)


def worker_releases(
    ledger: Ledger, worker: Claims, kind: Charge, category: str, signal: str
) -> tuple[Attempts, Attempts]:
    """The script charges what a dead process held. Returns the account before, and as it should be after."""
    batch = claimed(ledger, worker)
    (work,) = batch.works
    release_claims(ledger.scripts, "w1", charge=kind, reason="died", signal=signal, category=category)
    suspect = kind == "start"  # the death of a process is evidence
    return work.attempts, work.attempts.charge(
        0, STAGE, category, "died", kind=kind, suspect=suspect, signal=signal or None
    )


def untimed(attempts: Attempts) -> Attempts:
    """The account without its times: those of releases are the server's own."""
    return replace(attempts, errors=tuple(error._replace(at=0) for error in attempts.errors))


@pytest.mark.parametrize("seed", range(4))
def test_the_judge_and_the_script_write_the_same_account(patient: Ledger, seed: int) -> None:
    """Any sequence of failures, longer than the errors that are kept: after each the account is as defined."""
    draw, worker = random.Random(seed), patient.worker("w1")
    patient.accept(timeout_ms=3_600_000)
    expected = NO_ATTEMPTS
    for _ in range(KEPT_ERRORS + 6):
        if draw.random() < 0.4:
            before, after = stage_raises(patient, worker, draw.choice(RAISED))
        else:
            before, after = worker_releases(patient, worker, *draw.choice(RELEASED))
        assert untimed(before) == untimed(expected)
        expected = after
    (work,) = claimed(patient, worker).works
    assert untimed(work.attempts) == untimed(expected)
    assert len(work.attempts.errors) == KEPT_ERRORS
    times = [error.at for error in work.attempts.errors]
    assert times == sorted(times)
    assert times[0] > 0


@pytest.mark.parametrize(("kind", "needed"), [("loss", SUSPECT_LOSSES), ("start", 1)])
def test_so_many_charges_make_a_suspect(patient: Ledger, kind: Charge, needed: int) -> None:
    worker = patient.worker("w1")
    patient.accept(timeout_ms=3_600_000)
    before = [worker_releases(patient, worker, kind, "crash", "")[0].suspect for _ in range(needed)]
    assert before == [False] * needed
    assert claimed(patient, worker).works[0].attempts.suspect


def test_what_waits_for_something_that_is_down_is_not_charged(patient: Ledger) -> None:
    worker = patient.worker("w1")
    patient.accept()
    batch = claimed(patient, worker)
    outcome = judge(NotNow("away", 0.0), batch.works[0], STAGE, 0, patient.settings, random.Random(1))
    patient.settle(worker, batch, [outcome])
    assert claimed(patient, worker).works[0].attempts == NO_ATTEMPTS
