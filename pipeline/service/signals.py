"""How a process is told to stop: SIGTERM from its supervisor, SIGINT from a terminal."""

import queue
import signal
from collections.abc import Callable
from contextlib import suppress

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def on_stop_signal(stop: Callable[[], object]) -> None:
    """Calls ``stop`` in this process's main thread at each SIGTERM and SIGINT.

    The signal may interrupt anything, so ``stop`` must not wait for a lock that the interrupted code may hold.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, lambda *_: stop())


class StopRequest:
    """Whether a process was told to stop. Any thread and any signal handler may tell it.

    A ``threading.Event`` will not do: its lock may be held by the very code that the signal interrupts, for ever.
    """

    def __init__(self) -> None:
        self._told: queue.SimpleQueue[None] = queue.SimpleQueue()

    def make(self) -> None:
        """Tells the process to stop."""
        self._told.put(None)

    @property
    def made(self) -> bool:
        """Whether it was told."""
        return not self._told.empty()

    def wait(self, timeout_s: float) -> bool:
        """Waits until the process is told to stop, ``timeout_s`` at most; whether it was told."""
        with suppress(queue.Empty):
            self._told.put(self._told.get(timeout=timeout_s))
            return True
        return False
