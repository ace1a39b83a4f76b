"""A child that comes to an armed step sends itself the signal, once; without the setting nothing happens."""

import os
import signal
from pathlib import Path

import pytest

from pipeline.testing.failpoints import arm, failpoints


def test_the_first_at_an_armed_step_gets_the_signal_and_nobody_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    one, another = failpoints(tmp_path), failpoints(tmp_path)
    one("after-claim")
    armed = arm(tmp_path, "after-claim", signal.SIGKILL)
    another("before-ack")
    assert (sent, armed.exists()) == ([], True)
    one("after-claim")
    another("after-claim")
    assert (sent, armed.exists()) == ([(os.getpid(), signal.SIGKILL)], False)


def test_without_a_folder_nothing_happens() -> None:
    failpoints(None)("after-claim")
