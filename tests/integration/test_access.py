"""The API with keys set: rights of callers, tenants' requests kept apart; its pages need nothing from outside."""

import contextlib
import hashlib
import re
from collections.abc import Callable, Iterator

import httpx
import pytest

from pipeline.client import ScoringClient
from pipeline.stack.local import LocalStack
from tests.conftest import another_api
from tests.integration.test_http import APPLICATION, submit

PRODUCER, OTHER, OPERATOR = "producer-key", "another-producers-key", "operator-key"
UNKNOWN_ID = "01890a5d-ac96-774b-bcce-b302099a8057"


def with_keys(stack: LocalStack, **environment: str) -> Iterator[str]:
    """One more API process over the stack's store, with keys set; its URL."""
    producer, other, operator = (hashlib.sha256(key.encode()).hexdigest() for key in (PRODUCER, OTHER, OPERATOR))
    keys = {"SCORELINE_API_KEYS": f"{producer}, {other}", "SCORELINE_OPERATOR_KEYS": operator}
    yield from another_api(stack, **keys, **environment)


@pytest.fixture(scope="module")
def guarded(stack: LocalStack) -> Iterator[str]:
    yield from with_keys(stack)


@pytest.fixture(scope="module")
def second_guarded(stack: LocalStack) -> Iterator[str]:
    """Another process with the same keys: neither knows more than the ledger."""
    yield from with_keys(stack)


@pytest.fixture(scope="module")
def sharing(stack: LocalStack) -> Iterator[str]:
    yield from with_keys(stack, SCORELINE_SHARE_RESULTS="true")


def caller(url: str, key: str | None) -> httpx.Client:
    return httpx.Client(base_url=url, timeout=40, headers={"Authorization": f"Bearer {key}"} if key else {})


@pytest.fixture
def call(guarded: str, second_guarded: str) -> Iterator[dict[str, httpx.Client]]:
    """Clients by their keys; the two producers speak to different processes."""
    with contextlib.ExitStack() as clients:
        places = (PRODUCER, guarded), (OTHER, second_guarded), (OPERATOR, second_guarded)
        yield {key: clients.enter_context(caller(url, key)) for key, url in places}


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


# Tenants' requests


def slug(answer: httpx.Response) -> str:
    return answer.json()["type"].rpartition(":")[2]


def priced(price: float) -> dict:
    return {"features": APPLICATION | {"Price": price}}


def test_another_keys_request_is_not_found(
    stack: LocalStack, call: dict[str, httpx.Client], supervise: Callable[[str, str], None]
) -> None:
    """No answer differs from that for an unknown id: not while it waits, not when it ends, not afterwards."""
    supervise("stop", "scoring")
    accepted = submit(call[PRODUCER], wait=0, **priced(4001))
    url, request_id = accepted.headers["Location"], accepted.json()["request_id"]
    absent = f"/v1/scores/{request_id[:-1]}{int(request_id[-1], 16) ^ 1:x}"

    def foreign(client: httpx.Client) -> None:
        for method, query in (("GET", {}), ("GET", {"wait": "30"}), ("DELETE", {})):
            answers = [client.request(method, each, params=query) for each in (url, absent)]
            assert [answer.status_code for answer in answers] == [404, 404], (method, query)
            texts = [answer.text.replace(each[11:], "ID") for answer, each in zip(answers, (url, absent), strict=True)]
            assert texts[0] == texts[1]
            assert slug(answers[0]) == "not-found"
            headers = [answer.headers for answer in answers]
            assert {*headers[0]} == {*headers[1]}

    foreign(call[OTHER])
    with caller(str(call[PRODUCER].base_url), OTHER) as same_process:
        foreign(same_process)
        for client in (call[PRODUCER], call[OPERATOR]):
            assert client.get(url).json()["finished_at"] is None, "it was not cancelled"
        supervise("start", "scoring")
        assert call[PRODUCER].get(url, params={"wait": 30}).json()["state"] == "succeeded"
        foreign(same_process)  # a process that has just heard of its end
    foreign(call[OTHER])
    assert call[OPERATOR].get(url, params={"wait": 30}).json()["state"] == "succeeded"
    assert slug(call[PRODUCER].delete(url)) == "already-ended"
    assert slug(call[OPERATOR].delete(url)) == "already-ended"
    assert httpx.get(stack.api_url + url).json()["state"] == "succeeded", "without keys every caller sees all"


def test_what_comes_without_a_key_is_no_keys(stack: LocalStack, call: dict[str, httpx.Client]) -> None:
    over_http = httpx.post(f"{stack.api_url}/v1/scores", json={"model": "credit-default", **priced(4002)}).json()
    with ScoringClient(settings=stack.settings) as client:
        directly = client.submit("credit-default", **priced(4003))
        for status in (over_http, directly):
            url = f"/v1/scores/{status['request_id']}"
            for key in (PRODUCER, OTHER):
                assert slug(call[key].get(url, params={"wait": 30})) == "not-found"
                assert slug(call[key].delete(url)) == "not-found"
            assert call[OPERATOR].get(url, params={"wait": 30}).json()["state"] == "succeeded"
        own = submit(call[PRODUCER], **priced(4004)).json()
        assert client.get(own["request_id"]) == own, "the store's own client sees what the store sees"


def test_cancelled_says_by_whom(
    stack: LocalStack, call: dict[str, httpx.Client], supervise: Callable[[str, str], None]
) -> None:
    supervise("stop", "scoring")
    ids = [submit(call[PRODUCER], wait=0, **priced(4010 + n)).json()["request_id"] for n in range(3)]
    places = (ids[0], PRODUCER), (ids[1], OPERATOR)
    messages = [call[key].delete(f"/v1/scores/{each}").json()["error"]["message"] for each, key in places]
    with ScoringClient(settings=stack.settings) as client:
        messages.append(client.cancel(ids[2])["error"]["message"])  # type: ignore[index]
    assert messages == ["cancelled by its producer", "cancelled by an operator", "cancelled through the store"]
    again = [call[PRODUCER].delete(f"/v1/scores/{request_id}").json() for request_id in ids]
    assert [status["error"]["message"] for status in again] == messages, "its producer learns by whom"


def test_an_idempotency_key_of_the_same_text_is_another_for_another_key(call: dict[str, httpx.Client]) -> None:
    header = {"Idempotency-Key": "order-4020"}
    rows = {"requests": [{"model": "credit-default", "idempotency_key": "order-4020", **priced(4020)}]}
    seen: dict[str, str] = {}
    for key, price in ((PRODUCER, 4020), (OTHER, 4020), (OPERATOR, 4021)):
        body = {"model": "credit-default", **priced(price)}
        first, again = (call[key].post("/v1/scores?wait=30", json=body, headers=header) for _ in range(2))
        assert first.status_code == again.status_code == 200
        assert again.json() == first.json()
        seen[key] = first.json()["request_id"]
    assert len(set(seen.values())) == 3
    for key in (PRODUCER, OTHER):
        (row,) = call[key].post("/v1/scores/batch", json=rows).json()["results"]
        assert row["score"]["request_id"] == seen[key]
    (row,) = call[OPERATOR].post("/v1/scores/batch", json=rows).json()["results"]
    assert row["problem"]["type"] == "urn:scoreline:problem:idempotency-mismatch", "its own key has another body"


def scored_alike(
    first: httpx.Client, second: httpx.Client, price: float, supervise: Callable[[str, str], None]
) -> tuple[dict, dict]:
    """What two callers get for equal inputs: while the first one's is under way, and after it has ended."""
    supervise("stop", "scoring")
    own, other = (submit(client, wait=0, **priced(price)).json() for client in (first, second))
    supervise("start", "scoring")
    for client, status in ((first, own), (second, other)):
        assert client.get(f"/v1/scores/{status['request_id']}", params={"wait": 30}).json()["state"] == "succeeded"
    submit(first, **priced(price + 1))
    return other, submit(second, **priced(price + 1)).json()


def test_keys_share_neither_flights_nor_cached_answers(
    call: dict[str, httpx.Client], supervise: Callable[[str, str], None]
) -> None:
    joining, asking = scored_alike(call[PRODUCER], call[OTHER], 4030, supervise)
    assert not joining["joined"]
    assert (asking["cached"], asking["state"]) == (False, "succeeded")
    with caller(str(call[OTHER].base_url), PRODUCER) as same_key:
        joining, asking = scored_alike(call[PRODUCER], same_key, 4034, supervise)
    assert joining["joined"], "one key's requests do, whatever process they come to"
    assert asking["cached"]


def test_keys_share_what_the_deployment_lets_them(sharing: str, supervise: Callable[[str, str], None]) -> None:
    with caller(sharing, PRODUCER) as one, caller(sharing, OTHER) as other:
        joining, asking = scored_alike(one, other, 4040, supervise)
        assert joining["joined"]
        assert asking["cached"]
        for status in (joining, asking):
            assert slug(one.get(f"/v1/scores/{status['request_id']}")) == "not-found", "the requests stay their own"
