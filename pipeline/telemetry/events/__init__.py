"""The table of events: what each one means, its fields, its level, and what kind of process emits it.

A place that emits one reads ``ChildDied(pid=pid, signal=name).emit()``; its name in the log is ``child_died``. Where
one request is meant, the fields are ``request_id``, ``model``, ``stage`` and ``attempt``. ``docs/events.md`` is made
from these modules.
"""
