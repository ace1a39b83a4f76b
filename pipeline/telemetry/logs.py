"""Logs: one line of JSON for each event, on standard error.

A line is at most ``PIPE_BUF`` bytes long and written by one call, so that the lines of a worker and its children do not
mix in the pipe to their supervisor. Of longer texts the middle is left out.
"""

import json
import logging
import os
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

STDERR = 2
LONGEST_LINE = 4096
"""POSIX's PIPE_BUF on Linux, in bytes: writes up to it are atomic. Lines are ASCII, and end with a newline."""
LEFT_OUT = " [...] "
"""Stands for the middle of a text that is too long."""


def configure_logging(service: str, *, level: str = "INFO", descriptor: int = STDERR) -> None:
    """Send this process's events, and the logs and warnings of its libraries, to standard error as JSON lines."""
    handler = _Lines(descriptor)
    handler.setFormatter(JsonLine(service))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    logging.captureWarnings(True)


class _Lines(logging.Handler):
    """Writes each record by one call. What cannot be written is dropped: there is nowhere to say so."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor

    def createLock(self) -> None:  # noqa: N802 - logging's name
        """Without a lock: one call writes a line, and what ends a process that hangs must not wait for its threads."""
        self.lock = None

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record's line."""
        with suppress(Exception):
            os.write(self._descriptor, f"{self.format(record)}\n".encode())


class JsonLine(logging.Formatter):
    """Formats records as JSON: ``event``, ``level``, ``timestamp`` and ``service`` first, then the event's fields.

    What a library logs is the event ``library_message``. ``exception`` is the traceback, if there is one.
    """

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        event = getattr(record, "scoreline_event", None)
        line: dict[str, Any] = {
            "event": event.name if event else "library_message",
            "level": record.levelname.lower(),
            "timestamp": f"{datetime.fromtimestamp(record.created, UTC):%Y-%m-%dT%H:%M:%S.%fZ}",
            "service": self._service,
        }
        line |= event.values() if event else {"logger": record.name, "message": record.getMessage()}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return _bounded(line)


def _bounded(line: dict[str, Any]) -> str:
    """The line as JSON; while it is too long, the middle of its longest field is left out."""
    text = json.dumps(line, default=str)
    while len(text) >= LONGEST_LINE:
        sizes = {name: len(json.dumps(value, default=str)) for name, value in line.items()}
        name = max(sizes, key=sizes.__getitem__)
        value = line[name] if isinstance(line[name], str) else str(line[name])
        # In proportion: an escaped character takes up to twelve bytes. At least a few go, so that this comes to an end.
        share = max(0.0, 1 - (len(text) - LONGEST_LINE + len(LEFT_OUT) + 1) / sizes[name])
        kept = max(0, min(int(share * len(value)) // 2, len(value) // 2 - len(LEFT_OUT)))
        line[name] = value[:kept] + LEFT_OUT + value[len(value) - kept :]
        text = json.dumps(line, default=str)
    return text
