"""A figure beside its goal, and the device that was measured."""

import os
from typing import Any


def device_kind() -> str:
    """Returns ``cuda`` or ``cpu``, as ``BENCH_DEVICE`` says."""
    return "cuda" if os.environ.get("BENCH_DEVICE", "cpu").startswith("cuda") else "cpu"


def figure(found: float, goal: float, *, at_least: bool) -> dict[str, Any]:
    """Returns a figure, its goal, and whether the goal is met."""
    met = found >= goal if at_least else found <= goal
    return {"found": round(found, 3), "goal": f"{'>=' if at_least else '<='} {goal:g}", "met": met}
