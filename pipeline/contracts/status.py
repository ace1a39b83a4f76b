"""The status document: what a producer reads of one request, while it runs and after its end."""

from typing import Any, Literal

from typing_extensions import TypedDict  # pydantic reads it into the OpenAPI document; typing has its like from 3.12

StateName = Literal[
    "queued",
    "preprocessing",
    "scoring",
    "postprocessing",
    "succeeded",
    "invalid",
    "dead",
    "expired",
    "cancelled",
]


class Failure(TypedDict):
    """Why a request did not succeed."""

    category: str
    stage: str | None
    message: str
    retryable: bool


class Anomaly(TypedDict):
    """A feature far from what the model was trained on; the request is scored all the same."""

    feature: str
    value: Any
    kind: Literal["out_of_range", "unseen", "outlier"]
    expected: Any


class Timing(TypedDict):
    """Milliseconds a request waited for a stage and was worked on by it."""

    waited_ms: float
    worked_ms: float


class Status(TypedDict):
    """Every key is always present, null where there is nothing. Times are RFC 3339 in UTC."""

    request_id: str
    state: StateName
    model: str
    model_version: str
    result: dict[str, Any] | None
    error: Failure | None
    degraded: bool
    scored_by: str | None
    cached: bool
    joined: bool
    anomalies: list[Anomaly]
    attempts: int
    generation: int
    priority: Literal["high", "normal", "low"]
    position: int | None
    eta_s: float | None
    submitted_at: str
    finished_at: str | None
    timings: dict[str, Timing]
