"""A worker for each GPU: all of them are told to stop, whenever the signal comes."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence

import pytest

from pipeline.worker.devices import each_device
from pipeline.worker.devices.nvml import Found


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("when", ["the first starts", "one is started again"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_comes_while_a_worker_is_started_stops_it_too(
    monkeypatch: pytest.MonkeyPatch, when: str, number: signal.Signals
) -> None:
    monkeypatch.setattr(each_device, "PAUSE_S", 0.0)
    started: list[subprocess.Popen[bytes]] = []

    def start(index: int, command: Sequence[str]) -> subprocess.Popen[bytes]:
        lives = when == "the first starts" or len(started) > 0
        code = "import signal; signal.pause()" if lives else ""
        process = subprocess.Popen([sys.executable, "-c", code])
        started.append(process)
        if len(started) == (1 if when == "the first starts" else 3):
            os.kill(os.getpid(), number)
        return process

    monkeypatch.setattr(each_device, "_start", start)
    try:
        assert each_device.one_for_each([Found(0, "a", "GPU-a"), Found(1, "b", "GPU-b")], [], None) == 0
        assert [process.poll() for process in started if process.poll() != 0] == [-signal.SIGTERM] * 2
    finally:
        for process in started:
            process.kill()
            process.wait()
