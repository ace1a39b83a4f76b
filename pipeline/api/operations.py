"""Operators' routes: models, stats, dead letters, metrics."""

from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter, Request, Response
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pipeline.api.bodies import JsonResponse
from pipeline.api.call import Call
from pipeline.contracts.ids import parse_id
from pipeline.contracts.problems import InvalidRequest
from pipeline.ledger.operators.stats import read_overview

router = APIRouter()


@router.get("/v1/models", tags=["models"])
async def models(request: Request) -> Response:
    """Every released version, its state and its input schema."""
    call = Call.by_producer(request)
    table = await call.in_time(call.api.core.releases())
    return JsonResponse({"models": table.documents()})


@router.get("/v1/stats", tags=["operations"])
async def stats(request: Request) -> Response:
    """What waits, what is claimed, which workers there are."""
    call = Call.by_producer(request)
    api = call.api
    overview = await call.in_time(read_overview(api.core.store, api.settings))
    overview["breakers"] += [{**breaker, "worker": "api", "stage": None} for breaker in api.breakers.states()]
    return JsonResponse(overview)


@router.get("/v1/dead-letters", tags=["operations"])
async def dead_letters(
    request: Request,
    model: str | None = None,
    stage: str | None = None,
    category: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Response:
    """Requests that were given up, newest first."""
    call = Call.by_operator(request)
    if not 1 <= limit <= 500:
        message = f"limit was {limit}; allowed: 1 to 500"
        raise InvalidRequest(message, errors=[{"pointer": "/limit", "message": message}])
    page = call.api.letters.page(model=model, stage=stage, category=category, cursor=cursor, limit=limit)
    letters, following = await call.in_time(page)
    return JsonResponse({"items": [letter.document() for letter in letters], "next": following})


@router.post("/v1/dead-letters/{letter_id}/replay", status_code=202, tags=["operations"])
async def replay(request: Request, letter_id: str) -> Response:
    """Run a dead request again from the stage that died."""
    call = Call.by_operator(request)
    request_id = parse_id(letter_id, "id")
    await call.in_time(call.api.letters.replay(request_id))
    status = await call.in_time(call.api.core.read(request_id))
    return JsonResponse(status, status_code=202, headers={"Location": f"/v1/scores/{letter_id}"})


@router.get("/metrics", tags=["operations"], include_in_schema=False)
async def metrics(request: Request) -> Response:
    """The counts of ``/v1/stats``, for Prometheus."""
    call = Call.of_open_route(request)
    overview = await call.in_time(read_overview(call.api.core.store, call.api.settings))
    registry = CollectorRegistry()
    registry.register(_Overview(overview, call.api.waits))
    return Response(generate_latest(registry), media_type="text/plain; version=0.0.4; charset=utf-8")


class _Overview(Collector):
    """Stats as metrics. Labels are stages, states and models: few, and known beforehand."""

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
            place = (worker["stage"] or "unknown", worker["state"])
            known[place] = known.get(place, 0) + 1
        for place, number in sorted(known.items()):
            workers.add_metric(list(place), number)
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
