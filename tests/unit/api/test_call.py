"""One parsed call for the hot path and for FastAPI's routes: whatever is wrong with it, both answer alike."""

import asyncio
import hashlib
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request

from pipeline.api.access import Access
from pipeline.api.app import HotPath, create_app
from pipeline.api.call import ANSWER_SHARE, Api, Call
from pipeline.breakers.calls import Breakers
from pipeline.client.core import Core
from pipeline.ledger.operators.dead_letters import DeadLetters
from pipeline.settings import read_settings

KEY = "a-producers-key"
SETTINGS = read_settings(
    {"SCORELINE_API_KEYS": hashlib.sha256(KEY.encode()).hexdigest(), "SCORELINE_MAX_BODY_BYTES": "1024"}
)
KNOWN = {"authorization": f"Bearer {KEY}"}
ANY_ID = "/v1/scores/01890a5d-ac96-774b-bcce-b302099a8057"


@pytest.fixture
def app() -> FastAPI:
    """An API whose store is never asked."""
    made = create_app(SETTINGS)
    core = Core(SETTINGS, retry_for_s=0, shed=True)
    made.state.api = Api(SETTINGS, Access(SETTINGS), Breakers(), core, DeadLetters(core.store))
    return made


@pytest.mark.parametrize(
    ("method", "path", "change", "slug"),
    [
        ("POST", "/v1/scores", {"headers": {}}, "unauthorized"),
        ("POST", "/v1/scores", {"headers": {"authorization": "Bearer another"}}, "unauthorized"),
        ("POST", "/v1/scores?wait=31", {}, "invalid-request"),
        ("POST", "/v1/scores", {"headers": KNOWN | {"idempotency-key": "two words"}}, "invalid-request"),
        ("POST", "/v1/scores", {"content": b"{"}, "malformed-json"),
        ("POST", "/v1/scores", {"content": b"a" * 2048}, "body-too-large"),
        ("POST", "/v1/scores", {"json": {"model": "m"}}, "invalid-request"),
        ("GET", ANY_ID, {"headers": {}}, "unauthorized"),
        ("GET", f"{ANY_ID}?wait=soon", {}, "invalid-request"),
        ("GET", "/v1/scores/nonsense", {}, "invalid-request"),
    ],
)
def test_the_hot_path_and_the_routes_refuse_alike(
    app: FastAPI, method: str, path: str, change: dict[str, Any], slug: str
) -> None:
    async def ask(asgi: Any) -> tuple[int, dict[str, str], Any]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(asgi), base_url="http://api") as http:
            answer = await http.request(method, path, **({"headers": KNOWN} | change))
        return answer.status_code, dict(answer.headers), answer.json()

    hot, routed = asyncio.run(ask(HotPath(app))), asyncio.run(ask(app))
    assert hot == routed
    assert hot[2]["type"] == f"urn:scoreline:problem:{slug}"


def test_a_slow_upload_does_not_use_up_the_time_to_answer(app: FastAPI) -> None:
    async def check() -> None:
        read_at = 0.0

        async def receive() -> dict[str, Any]:
            nonlocal read_at
            read_at = asyncio.get_running_loop().time()
            return {"type": "http.request", "body": b"{}", "more_body": False}

        headers = [(name.encode(), value.encode()) for name, value in KNOWN.items()]
        scope = {"type": "http", "app": app, "headers": headers, "query_string": b""}
        call = await Call.with_body(Request(scope, receive))
        assert call.until >= read_at + ANSWER_SHARE * SETTINGS.store_timeout_s

    asyncio.run(check())
