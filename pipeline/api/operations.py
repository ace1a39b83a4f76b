"""What operators look at: models, stats, metrics; and dead letters, for which an operator's key is needed."""

from fastapi import APIRouter, Request, Response

from pipeline.api.bodies import JsonResponse
from pipeline.api.call import Call
from pipeline.api.metrics import MEDIA_TYPE, exposition
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
    return Response(exposition(overview, call.api.waits), media_type=MEDIA_TYPE)
