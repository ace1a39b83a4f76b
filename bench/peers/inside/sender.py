"""How a peer's producer is told what to send, and answers how it went: JSON lines over standard input and output."""

import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

Send = Callable[[int, int], tuple[float, list[float]]]
"""Send so many requests, at most so many unfinished at once: seconds in all, and each one's latency (ms)."""


def serve(start: Callable[[], Mapping[str, Send]]) -> None:
    """Answers until standard input ends. ``start`` gives a function for each way of sending."""
    # Libraries print. What they print goes where errors go, so that answers are all that is read.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    ways = start()
    for line in sys.stdin:
        asked: dict[str, Any] = json.loads(line)
        seconds, latencies_ms = ways[asked["way"]](asked["count"], asked["parallel"])
        answers.write(json.dumps({"seconds": seconds, "latencies_ms": latencies_ms}) + "\n")
        answers.flush()
