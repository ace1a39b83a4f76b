"""Named steps at which a test can stop or kill a worker's child: after-claim, after-settle, before-ack.

SCORELINE_FAILPOINTS names a folder. A file there with the name of a step holds a signal's name. The child that comes to
that step and manages to remove the file sends itself that signal: exactly one child, exactly there.
"""

import os
import signal
from collections.abc import Callable
from pathlib import Path

Reached = Callable[[str], None]


def failpoints(folder: Path | None) -> Reached:
    """What the runner tells of each step it has come to."""
    return _nothing if folder is None else _Armed(folder)


def arm(folder: Path, step: str, number: signal.Signals) -> Path:
    """Have the next child that comes to this step sent a signal; the file, which is gone once one has."""
    file = folder / step
    whole = folder / f".{step}"
    whole.write_text(number.name)
    return whole.replace(file)


def _nothing(step: str) -> None:
    """Nobody tests."""


class _Armed:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, step: str) -> None:
        file = self._folder / step
        try:
            number = signal.Signals[file.read_text()]
            file.unlink()
        except FileNotFoundError:
            return  # not armed, or another child was faster
        os.kill(os.getpid(), number)
