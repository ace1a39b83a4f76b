"""The soft time limit interrupts a bell that is being answered, and nothing else."""

import os
import signal
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from celery.exceptions import SoftTimeLimitExceeded

from tasks import child


@pytest.fixture(autouse=True)
def handler() -> Iterator[None]:
    before = signal.signal(signal.SIGUSR1, child._soft_limit)
    yield
    signal.signal(signal.SIGUSR1, before)


def test_a_bell_that_is_being_answered_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "_child", SimpleNamespace(answering=True))
    with pytest.raises(SoftTimeLimitExceeded):
        os.kill(os.getpid(), signal.SIGUSR1)


def test_what_comes_after_a_bell_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "_child", SimpleNamespace(answering=False))
    os.kill(os.getpid(), signal.SIGUSR1)
