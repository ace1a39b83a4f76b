"""``/v1/scores``: submit one or many, read, wait."""

from typing import Any

from fastapi import APIRouter, Request, Response

from pipeline.api.bodies import JsonResponse, read_json, wait_seconds
from pipeline.client.asynchronous import AsyncScoringClient, has_ended
from pipeline.contracts.envelope import ScoreRequest, check_envelope
from pipeline.contracts.problems import DeadlineExceeded, InvalidRequest, Problem
from pipeline.contracts.status import Status

router = APIRouter(prefix="/v1/scores", tags=["scores"])

_REQUEST_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": ScoreRequest.model_json_schema()}},
    }
}
_BATCH_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["requests"],
                    "additionalProperties": False,
                    "properties": {
                        "requests": {"type": "array", "maxItems": 1000, "items": ScoreRequest.model_json_schema()}
                    },
                }
            }
        },
    }
}
_WAIT: dict[str, Any] = {
    "name": "wait",
    "in": "query",
    "description": "seconds to wait for the end",
    "schema": {"type": "number", "minimum": 0, "maximum": 30, "default": 0},
}


def _client(request: Request) -> AsyncScoringClient:
    return request.app.state.client


@router.post("", status_code=202, response_model=Status, openapi_extra={**_REQUEST_BODY, "parameters": [_WAIT]})
async def submit(request: Request) -> Response:
    """Hand in one request. 202 with its status document and Location; with ``wait``, 200 if it ended in time."""
    state = request.app.state
    state.access.producer(request)
    seconds = wait_seconds(request)
    envelope = check_envelope(await read_json(request, state.settings.max_body_bytes))
    client = _client(request)
    status = await client.submit_request(envelope)
    if seconds:
        status = await client.wait_on(status, seconds)
        _raise_if_expired(status)
    headers = {"Location": f"/v1/scores/{status['request_id']}"}
    return JsonResponse(status, status_code=200 if has_ended(status) else 202, headers=headers)


@router.post("/batch", openapi_extra=_BATCH_BODY)
async def submit_batch(request: Request) -> Response:
    """Hand in up to 1,000 requests; for each, in order, its status or its problem. One bad row harms no other."""
    state = request.app.state
    state.access.producer(request)
    rows = _rows(await read_json(request, state.settings.max_body_bytes), state.settings.max_rows)
    results: list[dict[str, Any]] = []
    try:
        async for answer in _client(request).submit_many(rows):
            results.append(_row(len(results), answer))
    except Problem as problem:
        # The store went away in between: what was accepted before must not be unsaid.
        if not results:
            raise
        results += [_row(place, problem) for place in range(len(results), len(rows))]
    return JsonResponse({"results": results})


def _row(place: int, answer: Status | Problem) -> dict[str, Any]:
    if isinstance(answer, Problem):
        return {"index": place, "status": answer.status, "problem": answer.document()}
    return {"index": place, "status": 202, "score": answer}


def _rows(document: Any, limit: int) -> list[Any]:
    rows = document.get("requests") if isinstance(document, dict) else None
    if not isinstance(rows, list):
        message = 'expected {"requests": [...]}'
        raise InvalidRequest(message, errors=[{"pointer": "/requests", "message": message}])
    extra = sorted(set(document) - {"requests"})
    if extra:
        errors = [{"pointer": f"/{name}", "message": "is not a field of a batch"} for name in extra]
        raise InvalidRequest("a batch has one field, requests", errors=errors)
    if len(rows) > limit:
        message = f"{len(rows)} requests; allowed: at most {limit} in one batch"
        raise InvalidRequest(message, errors=[{"pointer": "/requests", "message": message}])
    return rows


@router.get("/{request_id}", response_model=Status, openapi_extra={"parameters": [_WAIT]})
async def read(request: Request, request_id: str) -> Response:
    """How a request stands; with ``wait``, as soon as it has ended."""
    request.app.state.access.producer(request)
    seconds = wait_seconds(request)
    client = _client(request)
    status = await client.get(request_id)
    if seconds and not has_ended(status):
        status = await client.wait_on(status, seconds)
        _raise_if_expired(status)
    return JsonResponse(status)


def _raise_if_expired(status: Status) -> None:
    if status["state"] == "expired":
        detail = status["error"]["message"] if status["error"] else "its deadline has passed"
        raise DeadlineExceeded(f"{status['request_id']}: {detail}")
