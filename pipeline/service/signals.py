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
    """A request that this process stops. Any thread and any signal handler may make it.

    A ``threading.Event`` will not do: a signal may interrupt the very code that holds its lock, and then wait for ever.
    """

    def __init__(self) -> None:
        self._made: queue.SimpleQueue[None] = queue.SimpleQueue()

    def make(self) -> None:
        """Makes the request."""
        self._made.put(None)

    @property
    def made(self) -> bool:
        """Whether it was made."""
        return not self._made.empty()

    def wait(self, timeout_s: float) -> bool:
        """Waits until the request is made, ``timeout_s`` at most; returns whether it was."""
        with suppress(queue.Empty):
            self._made.put(self._made.get(timeout=timeout_s))
            return True
        return False
