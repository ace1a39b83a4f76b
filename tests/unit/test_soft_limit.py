"""The soft time limit interrupts a bell that is being answered, and nothing else; what cannot stop is ended."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from celery.exceptions import SoftTimeLimitExceeded

from tasks import child, worker


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


def test_a_worker_that_does_not_stop_is_ended_with_its_children() -> None:
    ended, codes = threading.Event(), []
    child_process = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])

    def end(code: int) -> None:
        codes.append(code)
        ended.set()

    worker.last_resort(0.01, lambda: [child_process.pid], end)
    assert child_process.wait(30) == -signal.SIGKILL
    assert ended.wait(30)
    assert codes == [1]
