"""Where ``scoreline load`` sends: to the store through the Python client, or to the HTTP API. One call, no retries."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from pipeline.client.asynchronous import AsyncScoringClient
from pipeline.contracts.envelope import PriorityName
from pipeline.contracts.problems import DeadlineExceeded, Problem, Unauthorized, UnknownModel
from pipeline.contracts.status import Status
from pipeline.load.generator import Refused, Target
from pipeline.settings import read_settings

if TYPE_CHECKING:
    import aiohttp

NO_ANSWER = "no-answer"
"""In the place of a problem's slug: the connection failed, and the call may or may not have been carried out."""
CALL_S = 5.0
LONGEST_WAIT_S = 30.0


class ApiUnusable(Exception):
    """There is no API of Scoreline's at that address, or it does not answer."""


class StoreTarget:
    """The store, as a producer inside the network would use it."""

    def __init__(self, client: AsyncScoringClient, model: str, priority: PriorityName, timeout_s: float) -> None:
        self._client = client
        self._model = model
        self._priority: PriorityName = priority
        self._timeout_s = timeout_s

    async def submit(self, features: Mapping[str, Any]) -> Status | Refused:
        """Hand in one request, computed anew."""
        try:
            return await self._client.submit(
                self._model, features, priority=self._priority, timeout_s=self._timeout_s, no_cache=True
            )
        except Problem as problem:
            return Refused(problem.slug, problem.detail)

    async def end(self, status: Status, seconds: float) -> Status | Refused:
        """Its status once it has ended; it is read at least once."""
        try:
            return await self._client.wait_on(status, max(1.0, seconds))
        except Problem as problem:
            return Refused(problem.slug, problem.detail)


class ApiTarget:
    """The HTTP API."""

    def __init__(self, http: "aiohttp.ClientSession", model: str, priority: PriorityName, timeout_s: float) -> None:
        self._http = http
        self._envelope = {"model": model, "priority": priority, "timeout_s": timeout_s}

    async def submit(self, features: Mapping[str, Any]) -> Status | Refused:
        """Hand in one request, computed anew."""
        return await self._call("POST", "/v1/scores", CALL_S, json=self._envelope | {"features": features})

    async def end(self, status: Status, seconds: float) -> Status | Refused:
        """Its status once it has ended; it is read at least once."""
        path = f"/v1/scores/{status['request_id']}"
        wait = min(max(0.0, seconds), LONGEST_WAIT_S)
        answer = await self._call("GET", path, wait + CALL_S, params={"wait": f"{wait:.3f}"})
        if isinstance(answer, Refused) and answer.slug == DeadlineExceeded.slug:
            return await self._call("GET", path, CALL_S)  # it expired while we waited: read its end
        return answer

    async def _call(self, method: str, path: str, seconds: float, **options: Any) -> Any:
        import aiohttp

        try:
            async with self._http.request(
                method, path, timeout=aiohttp.ClientTimeout(seconds), headers={"Cache-Control": "no-cache"}, **options
            ) as answer:
                document = await answer.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            return Refused(NO_ANSWER, str(error) or type(error).__name__)
        if answer.status in (200, 202):
            return document
        problem = document if isinstance(document, dict) else {}  # a proxy in between has answers of its own
        return Refused(str(problem.get("type", f"http-{answer.status}")).rsplit(":", 1)[-1], str(problem.get("detail")))


@asynccontextmanager
async def store_target(model: str, priority: PriorityName, timeout_s: float) -> AsyncIterator[Target]:
    """The store that the settings name; a Problem if it does not answer or has no such model."""
    async with AsyncScoringClient(settings=read_settings(), retry_for_s=0) as client:
        (await client.releases()).resolve(model)
        yield StoreTarget(client, model, priority, timeout_s)


@asynccontextmanager
async def api_target(
    url: str, key: str | None, model: str, priority: PriorityName, timeout_s: float
) -> AsyncIterator[Target]:
    """The API at ``url``. ApiUnusable if it does not answer, Unauthorized, UnknownModel."""
    import aiohttp  # of the extra `local`

    headers = {"Authorization": f"Bearer {key}"} if key else {}
    # As many connections as there are requests under way: an open loop must not queue for one.
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(url, connector=connector, headers=headers) as http:
        try:
            async with http.get("/v1/models", timeout=aiohttp.ClientTimeout(CALL_S)) as answer:
                document = await answer.json(content_type=None)
        except (TimeoutError, aiohttp.ClientError, ValueError) as error:
            raise ApiUnusable(f"the API at {url} does not answer: {str(error) or type(error).__name__}") from None
        if answer.status != 200:
            if answer.status in (401, 403):
                raise Unauthorized(f"the API at {url}: {document}")
            raise ApiUnusable(f"the API at {url}: {document}")
        names = {name for each in document["models"] for name in (each["name"], f"{each['name']}@{each['version']}")}
        if model not in names:
            raise UnknownModel(f"no model {model!r} is released; there are {', '.join(sorted(names))}")
        yield ApiTarget(http, model, priority, timeout_s)
