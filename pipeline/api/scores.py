"""``/v1/scores``: submit one or many, read, wait."""

import asyncio
import contextlib
from collections.abc import Awaitable
from typing import Any, TypeVar

from fastapi import APIRouter, Request, Response

from pipeline.api.bodies import JsonResponse, idempotency_key, no_cache, read_json, wait_seconds
from pipeline.client.asynchronous import AsyncScoringClient
from pipeline.client.core import Accepted, Answer, Known, has_ended, told
from pipeline.client.input_chunks import chunks_of
from pipeline.contracts.envelope import ScoreRequest, ScoreRow, check_envelope
from pipeline.contracts.ids import from_text
from pipeline.contracts.problems import DeadlineExceeded, InvalidRequest, Overloaded, Problem, StoreUnavailable
from pipeline.contracts.status import Status
from pipeline.contracts.tenants import Caller
from pipeline.ledger import keys

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
                        "requests": {"type": "array", "maxItems": 1000, "items": ScoreRow.model_json_schema()}
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
_KEY: dict[str, Any] = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "sent again with the same key, a request is accepted once",
    "schema": {"type": "string", "pattern": "^[\\x21-\\x7e]{1,255}$"},
}
_NO_CACHE: dict[str, Any] = {
    "name": "Cache-Control",
    "in": "header",
    "description": "with no-cache the request is computed anew, and for itself alone",
    "schema": {"type": "string"},
}


Given = TypeVar("Given")
ANSWER_SHARE = 0.7
"""Of the time that a call to the store may take, from when a call is looked at: it may have waited in the socket, and
calls that queue for one another must be answered in that time, too."""


def _client(request: Request) -> AsyncScoringClient:
    return request.app.state.client


def answer_by(request: Request) -> float:
    """When a call that begins now must be answered (the event loop's seconds), beyond what it asks to wait."""
    limit_s: float = ANSWER_SHARE * request.app.state.settings.store_timeout_s
    return asyncio.get_running_loop().time() + limit_s


async def in_time(call: Awaitable[Given], until: float) -> Given:
    """What ``call`` gives; StoreUnavailable if it is not there by then. The hot calls have cheaper means: ``by``."""
    try:
        async with asyncio.timeout_at(until):
            return await call
    except TimeoutError:
        raise StoreUnavailable("the store did not answer in time") from None


@router.post(
    "", status_code=202, response_model=Status, openapi_extra={**_REQUEST_BODY, "parameters": [_WAIT, _KEY, _NO_CACHE]}
)
async def submit(request: Request) -> Response:
    """Hand in one request. 202 with its status document and Location; with ``wait``, 200 if it ended in time."""
    state = request.app.state
    caller = state.access.caller(request)
    seconds, until = wait_seconds(request), answer_by(request)
    key = idempotency_key(request)
    envelope = check_envelope(await read_json(request, state.settings.max_body_bytes))
    client = _client(request)
    accepted = await client.accept_request(envelope, key, tenant=caller.tenant, no_cache=no_cache(request), by=until)
    begins = isinstance(accepted, Accepted) and not accepted.end  # who waits for it has no use for its first status
    status = None if seconds and begins else await client.status_of(accepted, caller=caller, by=until)
    if seconds and (status is None or not has_ended(status)):
        with contextlib.suppress(StoreUnavailable, Overloaded):  # it is accepted, and its producer has to know its id
            status = await _wait(request, accepted.id, caller, seconds, until) or status
    if status is None:
        status = await client.status_of(accepted, caller=caller, by=until)
    headers = {"Location": f"/v1/scores/{status['request_id']}"}
    return JsonResponse(status, status_code=200 if has_ended(status) else 202, headers=headers)


@router.post("/batch", openapi_extra={**_BATCH_BODY, "parameters": [_WAIT, _NO_CACHE]})
async def submit_batch(request: Request) -> Response:
    """Hand in up to 1,000 requests; for each, in order, its status or its problem. One bad row harms no other.

    With ``wait``: the statuses once all have ended, or as they stand when the time is over.
    """
    state = request.app.state
    caller = state.access.caller(request)
    seconds = wait_seconds(request)
    rows = _rows(await read_json(request, state.settings.max_body_bytes), state.settings.max_rows)
    if no_cache(request):
        rows = [{**row, "no_cache": True} if isinstance(row, dict) else row for row in rows]
    client, until = _client(request), answer_by(request)
    answers: list[Answer] = []

    async def accept_all() -> None:
        async for chunk in client.accept_chunks(chunks_of(rows, keys.SCRIPT_LIMIT), tenant=caller.tenant):
            answers.extend(chunk)

    try:
        await in_time(accept_all(), until)
        found = await in_time(client.standing(answers, caller), until)
    except Problem as problem:
        # The store went away in between: what was accepted before must not be unsaid.
        if not any(isinstance(answer, Accepted) for answer in answers):
            raise
        answers += [problem] * (len(rows) - len(answers))
        found = {answer.id: problem for answer in answers if isinstance(answer, Known)}
    if seconds and state.waits < state.settings.max_waits:
        found |= await _ends(request, answers, found, caller, seconds, until)
    return JsonResponse({"results": [_row(place, answer) for place, answer in enumerate(told(answers, found))]})


async def _ends(
    request: Request,
    answers: list[Answer],
    found: dict[bytes, Status | Problem],
    caller: Caller,
    seconds: float,
    until: float,
) -> dict[bytes, Status | Problem]:
    """How those stand that had not ended, once all have, or when the time is over."""
    waiting = [answer.id for answer in answers if isinstance(answer, Accepted) and not answer.end]
    waiting += [
        request_id for request_id, status in found.items() if isinstance(status, dict) and not has_ended(status)
    ]
    state = request.app.state
    state.waits += 1
    try:
        statuses = await in_time(_client(request).wait_for_all(waiting, seconds, caller), until + seconds)
    except (StoreUnavailable, Overloaded):
        return {}  # they are accepted, and their producer has to know their ids
    finally:
        state.waits -= 1
    return {
        request_id: _expired(status) if isinstance(status, dict) and status["state"] == "expired" else status
        for request_id, status in zip(waiting, statuses, strict=True)
    }


def _row(place: int, answer: Status | Problem) -> dict[str, Any]:
    if isinstance(answer, Problem):
        return {"index": place, "status": answer.status, "problem": answer.document()}
    return {"index": place, "status": 200 if has_ended(answer) else 202, "score": answer}


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
    caller = request.app.state.access.caller(request)
    seconds, until = wait_seconds(request), answer_by(request)
    status = await _client(request).get(request_id, caller=caller, by=until)
    if seconds and not has_ended(status):
        status = await _wait(request, from_text(request_id), caller, seconds, until) or status
    return JsonResponse(status)


@router.delete("/{request_id}", response_model=Status)
async def cancel(request: Request, request_id: str) -> Response:
    """End a request that scoring has not begun. 409 if it has ended otherwise, or is being scored."""
    caller = request.app.state.access.caller(request)
    return JsonResponse(await in_time(_client(request).cancel(request_id, caller=caller), answer_by(request)))


async def _wait(request: Request, request_id: bytes, caller: Caller, seconds: float, until: float) -> Status | None:
    """The end if it comes in time, else the latest status read; None if as many wait as may. DeadlineExceeded."""
    state = request.app.state
    if state.waits >= state.settings.max_waits:
        return None
    state.waits += 1
    try:
        status = await _client(request).wait_for(request_id, seconds, caller=caller, by=until + seconds)
    finally:
        state.waits -= 1
    if status is not None and status["state"] == "expired":
        raise _expired(status)
    return status


def _expired(status: Status) -> DeadlineExceeded:
    detail = status["error"]["message"] if status["error"] else "its deadline has passed"
    return DeadlineExceeded(f"{status['request_id']}: {detail}")
