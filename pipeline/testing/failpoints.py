"""Named steps at which a test can stop or kill a worker's child: after-claim, after-settle, before-ack.

SCORELINE_FAILPOINTS names a folder. A file there with the name of a step holds a signal's name. The child that reaches
that step and manages to remove the file sends itself that signal: exactly one child, exactly there.
"""

import os
import signal
from pathlib import Path


def arm(folder: Path, step: str, number: signal.Signals) -> Path:
    """Arms a step: the next child that reaches it gets the signal. Returns the file, which is gone once one has."""
    file = folder / step
    whole = folder / f".{step}"
    whole.write_text(number.name)
    return whole.replace(file)


class Failpoints:
    """The armed steps of one folder. The runner calls it with the name of each step that it reaches."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, step: str) -> None:
        """Sends this process the signal that the step is armed with, if it is."""
        file = self._folder / step
        try:
            number = signal.Signals[file.read_text()]
            file.unlink()
        except FileNotFoundError:
            return  # not armed, or another child was faster
        os.kill(os.getpid(), number)
