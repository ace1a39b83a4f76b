"""Points: one system, one way, one number of clients; and the document that rounds of them become."""

import statistics
from collections.abc import Mapping
from typing import Any, NamedTuple

from bench.rows import Row


class Point(NamedTuple):
    """Where a figure belongs. ``clients``: how many wait for a result each; None for a stream."""

    system: str
    way: str
    clients: int | None


def sized(pilot: Row, seconds: float, least: int, most: int) -> int:
    """Returns how many requests take about so many seconds, by the rate of a pilot."""
    return max(least, min(most, round(pilot.rates[-1] * seconds)))


def document(rows: Mapping[Point, Row]) -> list[dict[str, Any]]:
    """Returns medians and ranges of rounds; percentiles over all rounds, where each request is waited for."""
    return [_figures(point, row) for point, row in rows.items() if row.rates]


def _figures(point: Point, row: Row) -> dict[str, Any]:
    cuts = statistics.quantiles(row.latencies_ms, n=100) if point.clients and len(row.latencies_ms) > 1 else None
    return {
        **point._asdict(),
        "requests_per_s": round(statistics.median(row.rates), 1),
        "requests_per_s_range": [round(min(row.rates), 1), round(max(row.rates), 1)],
        "cpu_us_per_request": round(statistics.median(row.cpu_us), 1),
        "latency_ms": {"p50": cuts and round(cuts[49], 2), "p99": cuts and round(cuts[98], 2)},
    }


def curves(points: list[dict[str, Any]], labels: Mapping[str, Mapping[str, str]]) -> dict[str, list[dict[str, Any]]]:
    """Returns for each label of the plot its points by rising number of clients. ``labels``: by system, then way."""
    found: dict[str, list[dict[str, Any]]] = {}
    for point in sorted((point for point in points if point["clients"]), key=lambda point: point["clients"]):
        found.setdefault(labels[point["system"]][point["way"]], []).append(point)
    return found
