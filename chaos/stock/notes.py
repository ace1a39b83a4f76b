"""What ran, as the tasks note it: a file for each process, a line for each event, written before the task goes on."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Event = Literal["start", "end"]


@dataclass(frozen=True, slots=True)
class Note:
    """A task of a request has started, or has run to its end, in a process. ``at`` is the machine's monotonic clock."""

    at: float
    event: Event
    stage: str
    request: int
    pid: int


class Notebook:
    """This process's notes. The file's existence says that the process is ready to work."""

    def __init__(self, folder: Path) -> None:
        path = folder / f"{os.getpid()}.notes"
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def note(self, event: Event, stage: str, request: int) -> None:
        """Notes an event in one write, which a ``kill -9`` of this process cannot undo."""
        os.write(self._file, f"{time.monotonic():.6f} {event} {stage} {request}\n".encode())


def read_notes(folder: Path) -> list[Note]:
    """Returns the notes of all processes, in order of time."""
    notes = []
    for path in folder.glob("*.notes"):
        for line in path.read_text().splitlines():
            at, event, stage, request = line.split()
            notes.append(Note(float(at), event, stage, int(request), int(path.stem)))  # type: ignore[arg-type]
    return sorted(notes, key=lambda note: note.at)


def is_running(folder: Path, pid: int) -> bool:
    """Returns whether a process is in the middle of a task."""
    lines = (folder / f"{pid}.notes").read_text().splitlines() if pid in ready_processes(folder) else []
    return bool(lines) and " start " in lines[-1]


def ready_processes(folder: Path) -> set[int]:
    """Returns the processes that have become ready so far."""
    return {int(path.stem) for path in folder.glob("*.notes")}
