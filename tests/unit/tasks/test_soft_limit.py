"""The soft time limit interrupts a stage's own code, and nothing else; what it is told of is not lost meanwhile."""

import os
import signal
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from pipeline.contracts.failures import SoftLimit
from tasks import child


@pytest.fixture(autouse=True)
def handler() -> Iterator[None]:
    before = signal.signal(signal.SIGUSR1, child._soft_limit)
    yield
    signal.signal(signal.SIGUSR1, before)


def at_work(*, performing: bool, overran: bool = True) -> SimpleNamespace:
    return SimpleNamespace(runner=SimpleNamespace(performing=performing), overran=lambda: overran)


def test_a_stage_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "_child", at_work(performing=True))
    with pytest.raises(SoftLimit):
        os.kill(os.getpid(), signal.SIGUSR1)


def test_what_speaks_to_the_store_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "_child", at_work(performing=False))
    os.kill(os.getpid(), signal.SIGUSR1)


def test_what_comes_too_late_for_its_batch_is_not_the_next_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "_child", at_work(performing=True, overran=False))
    os.kill(os.getpid(), signal.SIGUSR1)
