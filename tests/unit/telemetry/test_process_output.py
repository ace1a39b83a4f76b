"""Whatever a service process writes is JSON lines: in processes of their own, whose output is theirs."""

import json
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY

BEGIN = """
import os, sys, time, threading, warnings, faulthandler, logging, signal
from pipeline.telemetry.process_output import log_everything
output = log_everything("test")
"""


def lines_of(code: str, exit_code: int = 0) -> list[dict]:
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + code], capture_output=True, text=True, timeout=60, check=False, cwd=REPOSITORY
    )
    assert (done.returncode, done.stdout) == (exit_code, "")
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert all({"event", "level", "timestamp", "service"} <= line.keys() for line in lines)
    return lines


@pytest.mark.parametrize(
    ("code", "event", "says"),
    [
        ("print('a banner')", "stdout_text", "a banner"),
        ("os.write(2, b'from native code')", "stderr_text", "from native code"),
        ("sys.__stdout__.write('past sys.stdout')", "stdout_text", "past sys.stdout"),
        ("warnings.warn('careful')", "library_message", "careful"),
        ("os.system('echo a child')", "stdout_text", "a child"),
        ("faulthandler.dump_traceback(2)", "stderr_text", "most recent call first"),
        ("faulthandler.register(signal.SIGUSR1); os.kill(os.getpid(), signal.SIGUSR1)", "stderr_text", "<module>"),
    ],
)
def test_what_is_written_past_the_log_becomes_events(code: str, event: str, says: str) -> None:
    (line,) = lines_of(code)
    assert line["event"] == event
    assert says in line.get("text", line.get("message"))


def test_a_stack_is_one_event_and_a_long_text_is_kept_whole() -> None:
    lines = lines_of("for n in range(2000): os.write(2, b'line %d\\n' % n)")
    text = "\n".join(line["text"] for line in lines)
    assert text.splitlines() == [f"line {n}" for n in range(2000)]
    assert len(lines) < 20


def test_an_error_that_nothing_caught_is_an_event_with_its_traceback() -> None:
    (line,) = lines_of("raise RuntimeError('boom')", exit_code=1)
    assert (line["event"], line["level"], line["error"]) == ("process_crashed", "critical", "RuntimeError('boom')")
    assert line["exception"].startswith("Traceback")


def test_the_message_of_an_exit_is_an_event() -> None:
    (line,) = lines_of("sys.exit('no such device')", exit_code=1)
    assert (line["event"], line["text"]) == ("stderr_text", "no such device")


def test_an_error_in_a_thread_is_an_event() -> None:
    code = "thread = threading.Thread(target=lambda: 1 / 0, name='worker-1'); thread.start(); thread.join()"
    (line,) = lines_of(code)
    assert (line["event"], line["thread"]) == ("thread_crashed", "worker-1")
    assert "ZeroDivisionError" in line["exception"]


def test_an_error_in_a_finalizer_is_an_event() -> None:
    (line,) = lines_of("class A:\n    def __del__(self): raise RuntimeError('late')\nA()")
    assert (line["event"], line["error"]) == ("error_dropped", "RuntimeError('late')")


def test_a_child_logs_past_its_parent_and_its_stacks_come_through_it() -> None:
    """A forked child of the pool: its own lines do not depend on a parent that may be dead or stand still."""
    code = """
from pipeline.telemetry.events.workers import ChildDied
if (pid := os.fork()) == 0:
    ChildDied(pid=1, signal="").emit()
    faulthandler.dump_traceback(2)
    os._exit(0)
os.waitpid(pid, 0)
"""
    assert {line["event"] for line in lines_of(code)} == {"child_died", "stderr_text"}


def test_a_child_that_outlives_its_parent_does_not_wait_for_it_to_read() -> None:
    code = """
started, tell = os.pipe()
if os.fork() == 0:
    os.read(started, 1)
    while os.getppid() == parent:
        time.sleep(0.01)
    try:
        for _ in range(100): os.write(2, bytes(10_000))
    except BrokenPipeError:
        from pipeline.telemetry.events.workers import ChildDied
        ChildDied(pid=1, signal="it was told").emit()
    os._exit(0)
os.write(tell, b"x")
os._exit(0)
"""
    (line,) = lines_of("parent = os.getpid()" + code)
    assert line["signal"] == "it was told"


def test_standard_output_is_put_back() -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"{BEGIN}\nprint('before'); output.close(); print('after')"],
        capture_output=True, text=True, timeout=60, check=True, cwd=REPOSITORY,
    )  # fmt: skip
    assert done.stdout == "after\n"
    assert json.loads(done.stderr)["text"] == "before"
