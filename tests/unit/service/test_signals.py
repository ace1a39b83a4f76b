"""A process is told to stop from a signal handler or a thread, and learns it at once or before it waits."""

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from pipeline.service.signals import STOP_SIGNALS, StopRequest, on_stop_signal


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_either_signal_makes_the_request(number: signal.Signals) -> None:
    stop = StopRequest()
    on_stop_signal(stop.make)
    assert not stop.made
    os.kill(os.getpid(), number)
    assert stop.wait(30)
    assert stop.made


def test_a_wait_ends_when_the_request_is_made_and_it_is_kept_for_the_next() -> None:
    stop = StopRequest()
    assert not stop.wait(0.001)
    threading.Timer(0.01, stop.make).start()
    assert stop.wait(30)
    assert stop.wait(0)
    assert stop.made
