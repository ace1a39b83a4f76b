"""supervisord that looks after its programs ten times a second, and stops them when who started it is gone.

``python -m pipeline.stack.supervisord``, with supervisord's options. It begins anew what has died when it next looks,
and of its own it looks once a second: a second in which requests wait. It runs in a session of its own, so that
whoever started it may be killed without it: nobody would be left to stop what it runs.
"""

import os
import signal
from typing import Any

from supervisor import poller, supervisord

LOOK_S = 0.1


class Poller(poller.Poller):
    """Waits for what its programs write or what it is asked, and no longer than LOOK_S."""

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self._starter: int | None = os.getppid()

    def poll(self, timeout: float) -> Any:
        """The files to read and those to write, as soon as there are any."""
        if self._starter is not None and self._starter != os.getppid():
            self._starter = None
            os.kill(os.getpid(), signal.SIGTERM)
        return super().poll(min(timeout, LOOK_S))


def main() -> None:
    """Supervise until told to stop."""
    poller.Poller = Poller
    supervisord.main()


if __name__ == "__main__":
    main()
