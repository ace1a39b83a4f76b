"""The base of all events: a frozen dataclass, emitted once, heard by every adapter.

An adapter turns events into something else: lines of a log (``logs``), later metrics and traces. ``add_adapter`` adds
one; no place that emits an event has to change. Events are for what is rare (failures, starts, ends, changes), not for
each request.
"""

import logging
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Any, ClassVar, dataclass_transform

INFO, WARNING, ERROR, CRITICAL = logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL
_BEFORE_CAPITAL = re.compile(r"(?<!^)(?=[A-Z])")


@dataclass_transform(kw_only_default=True, frozen_default=True)
class Event:
    """One kind of event. A subclass's docstring says what has happened, its annotations name and explain the fields."""

    TABLE: ClassVar[dict[str, type["Event"]]] = {}
    """All kinds by name."""
    name: ClassVar[str]
    """The class's name in snake case: what a log says in ``event``."""
    level: ClassVar[int]
    by: ClassVar[str]
    """The kind of process that emits it."""

    def __init_subclass__(cls, *, level: int, by: str) -> None:
        cls.name = _BEFORE_CAPITAL.sub("_", cls.__name__).lower()
        cls.level, cls.by = level, by
        dataclass(frozen=True, kw_only=True)(cls)
        assert cls.name not in Event.TABLE, f"two events are called {cls.name}"
        Event.TABLE[cls.name] = cls

    def values(self) -> dict[str, Any]:
        """Its fields by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]

    def emit(self, error: BaseException | None = None) -> None:
        """Tell every adapter; ``error``: an exception whose traceback goes with it. Never raises."""
        for adapter in _adapters:
            with suppress(Exception):  # what reports a failure must not become one
                adapter(self, error)

    def __str__(self) -> str:
        return " ".join([self.name, *(f"{name}={value!r}" for name, value in self.values().items())])


Adapter = Callable[[Event, BaseException | None], None]


def _log(event: Event, error: BaseException | None) -> None:
    """Hand an event to Python's logging: a service writes JSON lines (``logs``), a library's user decides."""
    logging.getLogger("scoreline").log(event.level, "%s", event, exc_info=error, extra={"scoreline_event": event})


_adapters: list[Adapter] = [_log]


def add_adapter(adapter: Adapter) -> Callable[[], None]:
    """Have ``adapter`` hear every event of this process from now on; the call returned takes it away again."""
    _adapters.append(adapter)
    return lambda: _adapters.remove(adapter)
