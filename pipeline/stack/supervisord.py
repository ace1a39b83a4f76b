"""supervisord that looks after its programs ten times a second: ``python -m pipeline.stack.supervisord``.

Options as supervisord's. It begins anew what has died when it next looks, and of its own it looks once a second: a
second in which requests wait.
"""

from typing import Any

from supervisor import poller, supervisord

LOOK_S = 0.1


class Poller(poller.Poller):
    """Waits for what its programs write or what it is asked, and no longer than LOOK_S."""

    def poll(self, timeout: float) -> Any:
        """The files to read and those to write, as soon as there are any."""
        return super().poll(min(timeout, LOOK_S))


def main() -> None:
    """Supervise until told to stop."""
    poller.Poller = Poller
    supervisord.main()


if __name__ == "__main__":
    main()
