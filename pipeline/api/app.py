"""The application: its life, the responses for problems, and its health."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi_swagger import patch_fastapi
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from pipeline.api import operations, scores
from pipeline.api.access import Access
from pipeline.api.bodies import JsonResponse, problem_response
from pipeline.api.call import Api, Call
from pipeline.breakers.calls import Breakers
from pipeline.client.core import Core
from pipeline.contracts.envelope import pointer
from pipeline.contracts.problems import InvalidRequest, NotFound, Problem
from pipeline.ledger import keys
from pipeline.ledger.operators.dead_letters import DeadLetters
from pipeline.ledger.rights import lacking_async
from pipeline.settings import Settings, settings
from pipeline.store.errors import store_problems

log = structlog.get_logger()

DESCRIPTION = """Submit scoring requests, poll for the answer by request ID.

Every accepted request ends exactly once: `succeeded`, `invalid`, `dead`, `expired` or `cancelled`."""


class HotPath:
    """Answers the two routes that carry all the traffic before FastAPI's middleware and dependency machinery.

    The handlers are the same; they stay declared on the app, which documents them and answers everything else. What
    concerns every call is done where its ``Call`` is parsed.
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
            response = _fault_response(error)
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


def _fault_response(error: Exception) -> Response:
    log.error("api_failed", exc_info=error)
    document = {"type": "about:blank", "title": "Internal Server Error", "status": 500}
    return Response(JsonResponse(document).body, status_code=500, media_type="application/problem+json")


def create_app(configured: Settings | None = None) -> FastAPI:
    """The API over the store that the settings name."""
    chosen = configured or settings()
    breakers = Breakers()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # Nothing is tried again: the API's callers can, and learn sooner that they should.
        async with Core(chosen, retry_for_s=0, breakers=breakers, shed=True) as core:
            core.listen()
            app.state.api = Api(chosen, Access(chosen), breakers, core, DeadLetters(core.store))
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
    app.include_router(scores.router)
    app.include_router(operations.router)

    @app.exception_handler(Problem)
    async def _problem(_: Request, problem: Problem) -> Response:
        return problem_response(problem)

    @app.exception_handler(Exception)
    async def _fault(_: Request, error: Exception) -> Response:
        return _fault_response(error)

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
        """The event loop runs."""
        return Response("ok\n", media_type="text/plain")

    @app.get("/readyz", tags=["health"])
    async def readyz(request: Request) -> Response:
        """The store takes this API's writes and a model is released; 503 with the reason otherwise."""
        call = Call.of_open_route(request)
        core = call.api.core
        with store_problems():
            lacks = await call.in_time(lacking_async(core.store, chosen, "service"))
        if lacks:
            return JsonResponse({"ready": False, "reason": lacks}, 503)
        table = await call.in_time(core.releases())
        if not table.current:
            return JsonResponse({"ready": False, "reason": "no model is released: run scoreline publish"}, 503)
        with store_problems():
            degraded = bool(await call.in_time(core.store.exists(keys.DEGRADED)))
        reason = "fewer than half of the expected scoring workers live: low priority is refused" if degraded else None
        return JsonResponse({"ready": True, "degraded": degraded, "reason": reason})

    return app
