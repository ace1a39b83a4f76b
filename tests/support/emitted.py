"""What is emitted while a test looks, each event checked against its own annotations."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import get_type_hints

from pydantic import TypeAdapter

from pipeline.telemetry.event import Event, add_adapter


@contextmanager
def emitted() -> Iterator[list[Event]]:
    """Events, in order; a field whose value is not of its type fails the test."""
    events: list[Event] = []
    remove = add_adapter(lambda event, _: events.append(event))
    try:
        yield events
    finally:
        remove()
        for event in events:
            hints = get_type_hints(type(event))
            for name, value in event.values().items():
                TypeAdapter(hints[name]).validate_python(value, strict=True)
