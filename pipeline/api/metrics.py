"""The metrics of ``/metrics``: the counts of ``/v1/stats``, in Prometheus' text format."""

from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def exposition(overview: dict[str, Any], waits: int) -> bytes:
    """The metrics as text. ``overview``: the document of ``/v1/stats``; ``waits``: calls that wait for an end."""
    registry = CollectorRegistry()
    registry.register(_Overview(overview, waits))
    return generate_latest(registry)


class _Overview(Collector):
    """Labels are stages, states and models: few, and known beforehand."""

    def __init__(self, overview: dict[str, Any], waits: int) -> None:
        self._overview = overview
        self._waits = waits

    def collect(self) -> Iterator[Metric]:
        waiting = GaugeMetricFamily("scoreline_waiting", "Requests that wait for a stage.", labels=["stage"])
        claimed = GaugeMetricFamily("scoreline_claimed", "Requests that a worker has claimed.", labels=["stage"])
        oldest = GaugeMetricFamily("scoreline_oldest_age_seconds", "Age of the oldest that waits.", labels=["stage"])
        for stage, figures in self._overview["stages"].items():
            waiting.add_metric([stage], figures["waiting"])
            claimed.add_metric([stage], figures["claimed"])
            oldest.add_metric([stage], figures["oldest_age_s"] or 0)
        workers = GaugeMetricFamily("scoreline_workers", "Workers.", labels=["stage", "state"])
        known: dict[tuple[str, str], int] = {}
        for worker in self._overview["workers"]:
            labels = (worker["stage"] or "unknown", worker["state"])
            known[labels] = known.get(labels, 0) + 1
        for labels, number in sorted(known.items()):
            workers.add_metric(list(labels), number)
        events = CounterMetricFamily("scoreline_events", "Requests by what happened to them.", labels=["event"])
        failures = CounterMetricFamily(
            "scoreline_failures", "Requests by what went wrong with them.", labels=["stage", "category"]
        )
        for event, number in self._overview["counts"].items():
            if event.startswith("failed:"):
                failures.add_metric(event.split(":")[1:], number)
            else:
                events.add_metric([event], number)
        runs = CounterMetricFamily("scoreline_model_rows", "Rows that a model has run.", labels=["model"])
        for model, number in self._overview["model_runs"].items():
            runs.add_metric([model], number)
        yield from (waiting, claimed, oldest, workers, events, failures, runs)
        yield GaugeMetricFamily("scoreline_degraded", "1 in degraded mode.", value=int(self._overview["degraded"]))
        yield GaugeMetricFamily("scoreline_waits", "Calls to this API that wait for an end.", value=self._waits)
        yield GaugeMetricFamily("scoreline_unfinished", "Accepted, not ended.", value=self._overview["unfinished"])
        yield GaugeMetricFamily("scoreline_dead_letters", "Dead letters kept.", value=self._overview["dead_letters"])
