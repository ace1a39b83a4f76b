"""supervisord that looks at its programs ten times a second, and stops them when the process that started it is gone.

``python -m pipeline.stack.supervisord``, with supervisord's options. It restarts a program that has died when it next
looks; left to itself it looks once a second, and requests wait meanwhile. It runs in a session of its own, so the
process that started it may be killed alone: nothing else would stop what it runs.
"""

import os
import signal
from typing import Any

from supervisor import poller, supervisord

LOOK_S = 0.1


class Poller(poller.Poller):
    """Waits for output of its programs or for a call, and no longer than LOOK_S."""

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self._starter: int | None = os.getppid()

    def poll(self, timeout: float) -> Any:
        """Returns the files to read and those to write, as soon as there are any."""
        if self._starter is not None and self._starter != os.getppid():
            self._starter = None
            os.kill(os.getpid(), signal.SIGTERM)
        return super().poll(min(timeout, LOOK_S))


def main() -> None:
    """Supervises until it is told to stop."""
    poller.Poller = Poller
    supervisord.main()


if __name__ == "__main__":
    main()
