"""A child that comes to an armed step sends itself the signal, once; without the setting nothing happens."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.testing.failpoints import Failpoints, arm
from tasks.child import failpoint_of


def test_the_first_at_an_armed_step_gets_the_signal_and_nobody_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    one, another = Failpoints(tmp_path), failpoint_of(tmp_path)
    one("after-claim")
    armed = arm(tmp_path, "after-claim", signal.SIGKILL)
    another("before-ack")
    assert (sent, armed.exists()) == ([], True)
    one("after-claim")
    another("after-claim")
    assert (sent, armed.exists()) == ([(os.getpid(), signal.SIGKILL)], False)


def test_without_a_folder_nothing_happens_and_nothing_for_tests_is_loaded() -> None:
    failpoint_of(None)("after-claim")
    code = "import sys, tasks.child, tasks.worker; assert 'pipeline.testing' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
