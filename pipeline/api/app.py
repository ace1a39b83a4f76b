"""The application: its life, how problems leave it, and its health."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi_swagger import patch_fastapi
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from pipeline.api import operations, scores
from pipeline.api.access import Access
from pipeline.api.bodies import JsonResponse, problem_response
from pipeline.breakers.calls import Breakers
from pipeline.client.asynchronous import AsyncScoringClient
from pipeline.contracts.envelope import pointer
from pipeline.contracts.failures import describe
from pipeline.contracts.problems import InvalidRequest, NotFound, Problem
from pipeline.ledger import keys
from pipeline.ledger.operators.dead_letters import DeadLetters
from pipeline.ledger.rights import lacking_async
from pipeline.settings import Settings, settings
from pipeline.store.errors import store_problems
from pipeline.telemetry.events.services import ApiFailed

DESCRIPTION = """Hand in scoring requests, poll for the answer by request ID.

Every accepted request ends exactly once: `succeeded`, `invalid`, `dead`, `expired` or `cancelled`."""


class HotPath:
    """The two routes that carry all the traffic, answered before FastAPI's middleware and dependency machinery.

    Same handlers, same documents; they stay declared on the app, which documents them and answers everything else.
    """

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer an ASGI event."""
        handler = self._handler(scope)
        if handler is None:
            await self._app(scope, receive, send)
            return
        scope["app"] = self._app
        try:
            response = await handler(Request(scope, receive))
        except Problem as problem:
            response = problem_response(problem)
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets a document
            response = _our_fault(error)
        await response(scope, receive, send)

    @staticmethod
    def _handler(scope: Scope) -> Callable[[Request], Awaitable[Response]] | None:
        if scope["type"] != "http":
            return None
        method, path = scope["method"], scope["path"]
        if method == "POST" and path == "/v1/scores":
            return scores.submit
        if method == "GET" and path.startswith("/v1/scores/") and path.count("/") == 3:
            return partial(scores.read, request_id=path[11:])
        return None


def _our_fault(error: Exception) -> Response:
    ApiFailed(error=describe(error)).emit(error)
    document = {"type": "about:blank", "title": "Internal Server Error", "status": 500}
    return Response(JsonResponse(document).body, status_code=500, media_type="application/problem+json")


def create_app(configured: Settings | None = None) -> FastAPI:
    """The API over the store that the settings name."""
    chosen = configured or settings()
    breakers = Breakers()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncScoringClient(settings=chosen, retry_for_s=0, breakers=breakers) as client:
            client.listen()
            app.state.client = client
            app.state.letters = DeadLetters(client.store)
            yield

    app = FastAPI(
        title="Scoreline",
        version="1",
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
    )
    patch_fastapi(app)  # /docs
    app.state.settings = chosen
    app.state.breakers = breakers
    app.state.waits = 0
    app.state.access = Access(chosen)
    app.include_router(scores.router)
    app.include_router(operations.router)

    @app.exception_handler(Problem)
    async def _problem(_: Request, problem: Problem) -> Response:
        return problem_response(problem)

    @app.exception_handler(Exception)
    async def _fault(_: Request, error: Exception) -> Response:
        return _our_fault(error)

    @app.exception_handler(RequestValidationError)
    async def _invalid_query(_: Request, error: RequestValidationError) -> Response:
        errors = [{"pointer": pointer(fault["loc"][1:]), "message": fault["msg"]} for fault in error.errors()]
        return problem_response(InvalidRequest("the query is not valid", errors=errors))

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        if error.status_code == 404:
            return problem_response(NotFound(f"no route {request.method} {request.url.path}; see /docs"))
        document = {"type": "about:blank", "title": error.detail, "status": error.status_code}
        return Response(
            JsonResponse(document).body,
            status_code=error.status_code,
            headers=dict(error.headers or {}),
            media_type="application/problem+json",
        )

    @app.get("/livez", tags=["health"])
    async def livez() -> Response:
        """The event loop turns."""
        return Response("ok\n", media_type="text/plain")

    @app.get("/readyz", tags=["health"])
    async def readyz(request: Request) -> Response:
        """The store takes this API's writes and a model is released; 503 with the reason otherwise."""
        client, until = app.state.client, scores.answer_by(request)
        with store_problems():
            lacks = await scores.in_time(lacking_async(client.store, chosen, "service"), until)
        if lacks:
            return JsonResponse({"ready": False, "reason": lacks}, 503)
        table = await scores.in_time(client.releases(), until)
        if not table.current:
            return JsonResponse({"ready": False, "reason": "no model is released: run scoreline publish"}, 503)
        with store_problems():
            degraded = bool(await scores.in_time(client.store.exists(keys.DEGRADED), until))
        reason = "fewer than half of the expected scoring workers live: low priority is refused" if degraded else None
        return JsonResponse({"ready": True, "degraded": degraded, "reason": reason})

    return app
