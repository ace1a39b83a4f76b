"""What a process says of itself: ``events`` (the table), ``logs`` (JSON lines), ``process_output`` (all else).

``python -m pipeline.telemetry`` prints the table for ``docs/events.md``.
"""
