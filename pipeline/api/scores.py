"""``/v1/scores``: submit one or many, read, wait, cancel. Each handler parses its call, acts, and answers."""

import contextlib
from typing import Any

from fastapi import APIRouter, Request, Response

from pipeline.api.bodies import JsonResponse
from pipeline.api.call import Call
from pipeline.api.openapi import BATCH_BODY, KEY, NO_CACHE, REQUEST_BODY, WAIT
from pipeline.client.core import Accepted, Answer, Known, has_ended, statuses_for
from pipeline.client.input_chunks import chunks_of
from pipeline.client.streaming import accept_chunks
from pipeline.client.waiting import wait_for_end, wait_for_ends
from pipeline.contracts.envelope import check_envelope
from pipeline.contracts.ids import parse_id
from pipeline.contracts.problems import DeadlineExceeded, InvalidRequest, Overloaded, Problem, StoreUnavailable
from pipeline.contracts.status import Status
from pipeline.ledger.keys import SCRIPT_LIMIT

router = APIRouter(prefix="/v1/scores", tags=["scores"])


@router.post(
    "", status_code=202, response_model=Status, openapi_extra={**REQUEST_BODY, "parameters": [WAIT, KEY, NO_CACHE]}
)
async def submit(request: Request) -> Response:
    """Submit one request. 202 with its status document and Location; with ``wait``, 200 if it ended in time."""
    call = await Call.with_body(request, keyed=True)
    core, caller, until = call.api.core, call.caller, call.until
    envelope = check_envelope(call.body)
    accepted = await core.accept(envelope, call.key, tenant=caller.tenant, no_cache=call.no_cache, by=until)
    begins = isinstance(accepted, Accepted) and not accepted.end  # a call that waits has no use for its first status
    status = None if call.wait_s and begins else await core.status_of(accepted, caller=caller, by=until)
    if call.may_wait() and (status is None or not has_ended(status)):
        with contextlib.suppress(StoreUnavailable, Overloaded):  # it is accepted: its producer has to know its id
            status = await _wait(call, accepted.id) or status
    if status is None:
        status = await core.status_of(accepted, caller=caller, by=until)
    headers = {"Location": f"/v1/scores/{status['request_id']}"}
    return JsonResponse(status, status_code=200 if has_ended(status) else 202, headers=headers)


@router.post("/batch", openapi_extra={**BATCH_BODY, "parameters": [WAIT, NO_CACHE]})
async def submit_batch(request: Request) -> Response:
    """Submit up to 1,000 requests; for each, in order, its status or its problem. One bad row harms no other.

    With ``wait``: the statuses once all have ended, or as they are when the time is over.
    """
    call = await Call.with_body(request)
    rows = _rows(call.body, call.api.settings.max_rows)
    if call.no_cache:
        rows = [{**row, "no_cache": True} if isinstance(row, dict) else row for row in rows]
    answers, found = await _accept(call, rows)
    if call.may_wait():
        found |= await _ends(call, answers, found)
    return JsonResponse({"results": [_row(at, answer) for at, answer in enumerate(statuses_for(answers, found))]})


@router.get("/{request_id}", response_model=Status, openapi_extra={"parameters": [WAIT]})
async def read(request: Request, request_id: str) -> Response:
    """The status of a request; with ``wait``, as soon as it has ended."""
    call = Call.by_producer(request, waits=True)
    wanted = parse_id(request_id)
    status = await call.api.core.read(wanted, caller=call.caller, by=call.until)
    if call.may_wait() and not has_ended(status):
        status = await _wait(call, wanted) or status
    return JsonResponse(status)


@router.delete("/{request_id}", response_model=Status)
async def cancel(request: Request, request_id: str) -> Response:
    """End a request that scoring has not begun. 409 if it has ended otherwise, or is being scored."""
    call = Call.by_producer(request)
    status = await call.in_time(call.api.core.cancel(parse_id(request_id), caller=call.caller))
    return JsonResponse(status)


async def _wait(call: Call, request_id: bytes) -> Status | None:
    """The status once the request has ended, or as last read in time; None if it was not. DeadlineExceeded."""
    end = wait_for_end(
        call.api.core, request_id, call.api.core.time() + call.wait_s, caller=call.caller, by=call.until + call.wait_s
    )
    status = await call.waited(end)
    if status is not None and status["state"] == "expired":
        raise _expired(status)
    return status


async def _accept(call: Call, rows: list[Any]) -> tuple[list[Answer], dict[bytes, Status | Problem]]:
    """The ledger's answers to the rows of a batch, and the statuses, by id, of those that were known already."""
    core, answers = call.api.core, list[Answer]()

    async def accept_all() -> None:
        async for chunk in accept_chunks(core, chunks_of(rows, SCRIPT_LIMIT), tenant=call.caller.tenant):
            answers.extend(chunk)

    try:
        await call.in_time(accept_all())
        found = await call.in_time(core.statuses_of_known(answers, call.caller))
    except Problem as problem:
        # The store went away in between: what was accepted before stays accepted.
        if not any(isinstance(answer, Accepted) for answer in answers):
            raise
        answers += [problem] * (len(rows) - len(answers))
        found = {answer.id: problem for answer in answers if isinstance(answer, Known)}
    return answers, found


async def _ends(
    call: Call, answers: list[Answer], found: dict[bytes, Status | Problem]
) -> dict[bytes, Status | Problem]:
    """The statuses of requests that had not ended: once all have, or as they are when the time is over."""
    waiting = [answer.id for answer in answers if isinstance(answer, Accepted) and not answer.end]
    waiting += [
        request_id for request_id, status in found.items() if isinstance(status, dict) and not has_ended(status)
    ]
    core = call.api.core
    ends = wait_for_ends(core, waiting, core.time() + call.wait_s, caller=call.caller)
    try:
        statuses = await call.waited(call.in_time(ends, and_wait=True))
    except (StoreUnavailable, Overloaded):
        return {}  # they are accepted: their producer has to know their ids
    return {
        request_id: _expired(status) if isinstance(status, dict) and status["state"] == "expired" else status
        for request_id, status in statuses.items()
    }


def _row(at: int, answer: Status | Problem) -> dict[str, Any]:
    if isinstance(answer, Problem):
        return {"index": at, "status": answer.status, "problem": answer.document()}
    return {"index": at, "status": 200 if has_ended(answer) else 202, "score": answer}


def _rows(document: Any, limit: int) -> list[Any]:
    """The rows of a batch's body; InvalidRequest."""
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


def _expired(status: Status) -> DeadlineExceeded:
    detail = status["error"]["message"] if status["error"] else "its deadline has passed"
    return DeadlineExceeded(f"{status['request_id']}: {detail}")
