"""The API where keys are set: who may do what, and that its pages need nothing from outside."""

import hashlib
import re
from collections.abc import Iterator

import httpx
import pytest

from pipeline.stack.local import LocalStack
from tests.conftest import another_api
from tests.integration.test_http import submit

PRODUCER, OPERATOR = "producer-key", "operator-key"
UNKNOWN_ID = "01890a5d-ac96-774b-bcce-b302099a8057"


@pytest.fixture(scope="module")
def guarded(stack: LocalStack) -> Iterator[str]:
    """URL of one more API process over the stack's store, with keys set."""
    keys = {name: hashlib.sha256(key.encode()).hexdigest() for name, key in (("A", PRODUCER), ("O", OPERATOR))}
    yield from another_api(stack, SCORELINE_API_KEYS=f"{'0' * 64}, {keys['A']}", SCORELINE_OPERATOR_KEYS=keys["O"])


def caller(url: str, key: str | None) -> httpx.Client:
    return httpx.Client(base_url=url, timeout=40, headers={"Authorization": f"Bearer {key}"} if key else {})


PRODUCERS_ROUTES = [
    ("POST", "/v1/scores"),
    ("POST", "/v1/scores/batch"),
    ("GET", f"/v1/scores/{UNKNOWN_ID}"),
    ("GET", "/v1/models"),
    ("GET", "/v1/stats"),
]
OPERATORS_ROUTES = [("GET", "/v1/dead-letters"), ("POST", f"/v1/dead-letters/{UNKNOWN_ID}/replay")]


@pytest.mark.parametrize(("method", "path"), PRODUCERS_ROUTES + OPERATORS_ROUTES)
@pytest.mark.parametrize("header", [None, "Bearer wrong", "Bearer", "Basic cHJvZHVjZXIta2V5", PRODUCER])
def test_no_route_answers_without_a_known_key(guarded: str, method: str, path: str, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    answer = httpx.request(method, guarded + path, headers=headers)
    assert (answer.status_code, answer.json()["type"]) == (401, "urn:scoreline:problem:unauthorized")
    assert PRODUCER not in answer.text


@pytest.mark.parametrize("key", [PRODUCER, OPERATOR])
def test_a_known_key_scores(guarded: str, key: str) -> None:
    with caller(guarded, key) as http:
        assert submit(http).json()["state"] == "succeeded"
        assert http.get("/v1/models").status_code == 200


@pytest.mark.parametrize(("method", "path"), OPERATORS_ROUTES)
def test_operators_routes_need_an_operators_key(guarded: str, method: str, path: str) -> None:
    with caller(guarded, PRODUCER) as http:
        answer = http.request(method, path)
        assert (answer.status_code, answer.json()["type"]) == (403, "urn:scoreline:problem:forbidden")
    with caller(guarded, OPERATOR) as http:
        assert http.request(method, path).status_code in (200, 404)


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/docs", "/openapi.json"])
def test_health_metrics_and_docs_are_open(guarded: str, path: str) -> None:
    assert httpx.get(guarded + path).status_code == 200


def test_the_docs_page_loads_nothing_from_elsewhere(http: httpx.Client) -> None:
    page = http.get("/docs").text
    loaded = re.findall(r"""(?:src|href)=["']([^"']+)["']""", page)
    assert len(loaded) >= 3
    for url in loaded:
        assert httpx.URL(url).host in ("", http.base_url.host)
        assert http.get(url).status_code == 200
    assert "/openapi.json" in page
