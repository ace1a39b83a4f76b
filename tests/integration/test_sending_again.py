"""Sending again is safe: keys, cut connections, outages and refusals that pass. Two API processes, real workers."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest

from pipeline.client import AsyncScoringClient, ScoringClient
from pipeline.contracts.problems import (
    AlreadyEnded,
    IdempotencyMismatch,
    InvalidRequest,
    NotFound,
    Overloaded,
    Problem,
    StoreUnavailable,
)
from pipeline.contracts.stages import Stage
from pipeline.settings import Settings
from pipeline.stack.local import LocalStack
from tests.support.processes import another_api, eventually
from tests.support.requests import APPLICATION, request, submit
from tests.support.stacks import pid_of


@pytest.fixture(scope="module")
def second_api(stack: LocalStack) -> Iterator[str]:
    yield from another_api(stack)


@pytest.fixture
def client(stack: LocalStack) -> Iterator[ScoringClient]:
    with ScoringClient(settings=stack.settings) as opened:
        yield opened


def accepted_total(http: httpx.Client) -> int:
    answer = http.get("/v1/stats")
    assert answer.status_code == 200, answer.text
    return answer.json()["counts"].get("accepted", 0)


def test_a_thousand_submits_with_one_key_are_one_request(
    http: httpx.Client, stack: LocalStack, second_api: str
) -> None:
    """From two API processes and the Python client, all at once."""
    before = accepted_total(http)
    features, key = APPLICATION | {"Price": 777}, "order-4711"
    body = {"model": "credit-default", "features": features}

    async def run() -> list[str]:
        limits = httpx.Limits(max_connections=40)
        async with (
            httpx.AsyncClient(limits=limits, timeout=60) as web,
            AsyncScoringClient(settings=stack.settings) as client,
        ):

            async def over_http(url: str) -> str:
                answer = await web.post(f"{url}/v1/scores", json=body, headers={"Idempotency-Key": key})
                assert answer.status_code in (200, 202), answer.text
                return answer.json()["request_id"]

            async def directly() -> str:
                return (await client.submit("credit-default", features, idempotency_key=key))["request_id"]

            calls = [over_http(stack.api_url) for _ in range(334)] + [over_http(second_api) for _ in range(333)]
            return list(await asyncio.gather(*calls, *(directly() for _ in range(333))))

    ids = asyncio.run(run())
    assert (len(ids), len(set(ids))) == (1000, 1)
    assert accepted_total(http) - before == 1


def test_a_key_with_another_body_is_refused_and_after_the_end_gives_that_end(http: httpx.Client) -> None:
    headers = {"Idempotency-Key": "invoice-1"}
    features = {**APPLICATION, "Price": 100}
    ended = http.post("/v1/scores?wait=30", json={"model": "credit-default", "features": features}, headers=headers)
    assert ended.json()["state"] == "succeeded"
    reordered = dict(reversed(features.items())) | {"Price": 100.0}
    again = http.post("/v1/scores", json={"model": "credit-default", "features": reordered}, headers=headers)
    assert (again.status_code, again.json()) == (200, ended.json())
    for changed in ({"features": {**features, "Price": 101}}, {"timeout_s": 60}, {"priority": "high"}):
        body = {"model": "credit-default", "features": features, **changed}
        refused = http.post("/v1/scores", json=body, headers=headers)
        assert (refused.status_code, refused.json()["type"]) == (422, "urn:scoreline:problem:idempotency-mismatch")


def test_a_key_gives_bad_ends_again_too(http: httpx.Client) -> None:
    for do, state in (("nan", "dead"), ("unknown", "invalid")):
        body = {"model": "chaos-probe", "features": {"x": 0, "do": do}}
        headers = {"Idempotency-Key": f"bad-{do}"}
        ended = http.post("/v1/scores?wait=30", json=body, headers=headers)
        assert ended.json()["state"] == state
        assert http.post("/v1/scores?wait=30", json=body, headers=headers).json() == ended.json()


@pytest.mark.parametrize("key", ["", "two words", "é", "x" * 256])
def test_a_key_that_cannot_be_one_is_refused(http: httpx.Client, key: str) -> None:
    body = {"model": "credit-default", "features": APPLICATION}
    answer = http.post("/v1/scores", json=body, headers={"Idempotency-Key": key.encode()})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/Idempotency-Key")


def test_rows_of_a_batch_carry_their_keys(http: httpx.Client) -> None:
    rows = [request(n) | {"idempotency_key": f"row-{n % 2}"} for n in (0, 1, 0, 3)]
    results = http.post("/v1/scores/batch", json={"requests": rows}).json()["results"]
    assert [result["status"] for result in results] == [202, 202, 202, 422]
    ids = [result["score"]["request_id"] for result in results[:3]]
    assert ids[0] == ids[2] != ids[1]


def test_streams_and_keys(client: ScoringClient) -> None:
    rows = [request(n % 3) | {"idempotency_key": f"stream-{n % 3}"} for n in range(30)]
    first = list(client.score_many(rows))
    assert len({end["request_id"] for end in first}) == 3  # type: ignore[index]
    assert {end["state"] for end in first} == {"succeeded"}  # type: ignore[index]
    assert list(client.submit_many(rows)) == first
    assert list(client.score_many(rows)) == first


class CutProxy:
    """Between a client and the store: cuts a connection after a request went through, before its answer comes back."""

    def __init__(self, store_url: str) -> None:
        self._target = ("127.0.0.1", int(store_url.rsplit(":", 1)[1].split("/", maxsplit=1)[0]))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        self.cuts = 0
        self._cut_next = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_next_answer(self) -> None:
        self._cut_next.set()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(self._target)
            for source, sink, answers in ((near, far, False), (far, near, True)):
                threading.Thread(target=self._pass_on, args=(source, sink, answers), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        try:
            while data := source.recv(1 << 16):
                if answers and self._cut_next.is_set():
                    self._cut_next.clear()
                    self.cuts += 1
                    break
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def proxy(stack: LocalStack) -> Iterator[CutProxy]:
    made = CutProxy(stack.store_url)
    yield made
    made.close()


def through(proxy: CutProxy, stack: LocalStack) -> Settings:
    return stack.settings.model_copy(update={"store_url": proxy.url})


def test_an_answer_that_was_cut_off_is_asked_for_again_and_nothing_is_doubled(
    http: httpx.Client, stack: LocalStack, proxy: CutProxy
) -> None:
    before = accepted_total(http)
    with ScoringClient(settings=through(proxy, stack)) as client:
        client.releases()
        for number in range(5):
            proxy.cut_next_answer()
            status = client.submit("credit-default", request(number)["features"], no_cache=True)
            assert status["state"] == "queued"
        proxy.cut_next_answer()
        answers = list(client.submit_many(request(n) for n in range(300)))
    assert proxy.cuts == 6
    assert len({answer["request_id"] for answer in answers}) == 300  # type: ignore[index]
    assert accepted_total(http) - before == 305


def test_without_trying_again_a_key_tells_the_truth(http: httpx.Client, stack: LocalStack, proxy: CutProxy) -> None:
    before = accepted_total(http)
    with ScoringClient(settings=through(proxy, stack), retry_for_s=0) as client:
        client.releases()
        proxy.cut_next_answer()
        with pytest.raises(StoreUnavailable):
            client.submit("credit-default", APPLICATION, no_cache=True, idempotency_key="cut-1")
        first = client.submit("credit-default", APPLICATION, no_cache=True, idempotency_key="cut-1")
        assert (
            client.submit("credit-default", APPLICATION, no_cache=True, idempotency_key="cut-1")["request_id"]
            == first["request_id"]
        )
    assert accepted_total(http) - before == 1


def test_a_client_outlasts_a_restart_of_the_store(http: httpx.Client, stack: LocalStack, client: ScoringClient) -> None:
    before = accepted_total(http)
    client.releases()
    with ThreadPoolExecutor(2) as pool:
        stream = pool.submit(lambda: list(client.score_many(request(n) for n in range(3000))))
        eventually(lambda: accepted_total(http) - before > 300)
        psutil.Process(pid_of(stack, "store")).kill()
        ends = stream.result(120)
    assert {end["state"] for end in ends} == {"succeeded"}  # type: ignore[index]
    assert len({end["request_id"] for end in ends}) == 3000  # type: ignore[index]
    assert accepted_total(http) - before == 3000


def test_a_refusal_that_passes_is_tried_again(stack: LocalStack) -> None:
    async def run() -> tuple[str, str, list[str]]:
        async with (
            AsyncScoringClient(settings=stack.settings) as client,
            AsyncScoringClient(settings=stack.settings, retry_for_s=0) as hasty,
        ):
            await client.releases()
            await client.store.set("{p00}:leader", "nobody", px=3000)  # a sweeper would find that there is room
            await client.store.set("{p00}:memory_full", "1", px=2000)
            try:
                await hasty.submit("credit-default", APPLICATION, no_cache=True)
            except Problem as problem:
                refused = problem.slug
            many = asyncio.create_task(_states(client))
            patient = await client.submit("credit-default", APPLICATION, no_cache=True)
            return refused, patient["state"], await many

    async def _states(client: AsyncScoringClient) -> list[str]:
        return [answer["state"] async for answer in client.submit_many([request(n) for n in range(5)])]  # type: ignore[index]

    assert asyncio.run(run()) == ("store-full", "queued", ["queued"] * 5)


def test_each_problem_of_keys_and_cancelling_has_its_exception(client: ScoringClient) -> None:
    ended = client.wait(client.submit("credit-default", APPLICATION, idempotency_key="typed")["request_id"])
    with pytest.raises(IdempotencyMismatch):
        client.submit("credit-default", {}, idempotency_key="typed")
    with pytest.raises(InvalidRequest):
        client.submit("credit-default", APPLICATION, idempotency_key="two words")
    with pytest.raises(AlreadyEnded):
        client.cancel(ended["request_id"])
    with pytest.raises(NotFound):
        client.cancel(f"{ended['request_id'][:-12]}000000000000")
    assert Overloaded("x").retry_after_s == 2


def hold_scoring(http: httpx.Client) -> str:
    """Keep the scoring worker busy for a moment; the id of the request that does."""
    probe = {"model": "chaos-probe", "features": {"x": 0, "do": "slow", "seconds": 2}}
    request_id = http.post("/v1/scores", json=probe).json()["request_id"]
    eventually(lambda: http.get("/v1/stats").json()["stages"]["scoring"]["claimed"])
    return request_id


@pytest.fixture
def held_scoring(http: httpx.Client) -> str:
    return hold_scoring(http)


def test_cancel_over_http_and_by_command_line(
    http: httpx.Client, supervise: Callable[[str, str], None], scoreline: object
) -> None:
    supervise("stop", Stage.SCORING)
    one, other = (submit(http, wait=0).json()["request_id"] for _ in range(2))
    answer = http.delete(f"/v1/scores/{one}")
    assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")
    assert http.delete(f"/v1/scores/{one}").json() == answer.json()
    assert http.get(f"/v1/scores/{one}", params={"wait": 30}).json() == answer.json()
    done = scoreline("cancel", other, "--json")  # type: ignore[operator]
    assert (done.returncode, '"state": "cancelled"' in done.stdout) == (0, True)


def test_what_is_being_scored_or_has_ended_is_not_cancelled(
    http: httpx.Client, held_scoring: str, scoreline: object
) -> None:
    late = http.delete(f"/v1/scores/{held_scoring}")
    assert (late.status_code, late.json()["type"]) == (409, "urn:scoreline:problem:too-late")
    assert http.get(f"/v1/scores/{held_scoring}", params={"wait": 30}).json()["state"] == "succeeded"
    ended = http.delete(f"/v1/scores/{held_scoring}")
    assert (ended.status_code, ended.json()["type"]) == (409, "urn:scoreline:problem:already-ended")
    assert scoreline("cancel", held_scoring).returncode == 5  # type: ignore[operator]
    assert http.delete("/v1/scores/nonsense").status_code == 422


def test_beyond_its_bound_a_wait_is_answered_at_once(http: httpx.Client, stack: LocalStack) -> None:
    for url in another_api(stack, SCORELINE_MAX_WAITS="0"):
        answer = httpx.get(f"{url}/v1/scores/{hold_scoring(http)}", params={"wait": 30}, timeout=60)
        assert (answer.status_code, answer.json()["finished_at"]) == (200, None)
