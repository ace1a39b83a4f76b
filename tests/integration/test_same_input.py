"""Equal inputs: computed once, and recent answers given again. Real processes, two servers."""

import asyncio
import re
import subprocess
import time
from collections.abc import Callable, Iterator

import httpx
import pytest
import redis

from pipeline.client import AsyncScoringClient, ScoringClient
from pipeline.contracts.problems import Gone
from pipeline.settings import read_settings
from pipeline.stack.local import LocalStack
from pipeline.stack.store_server import server_command
from tests.support.processes import another_api, eventually, free_port
from tests.support.requests import APPLICATION
from tests.support.stacks import BELL_S


@pytest.fixture(scope="module")
def second_api(stack: LocalStack) -> Iterator[str]:
    yield from another_api(stack)


@pytest.fixture
def web(stack: LocalStack) -> Iterator[httpx.Client]:
    """A client that asks like any other: it takes an answer that is there."""
    with httpx.Client(base_url=stack.api_url, timeout=40) as client:
        yield client


def application(price: float) -> dict:
    return {"model": "credit-default", "features": APPLICATION | {"Price": price}}


class ScoredRows:
    """Rows that the scoring processes run from now on, by their own count: each job's result, as Flower shows it."""

    def __init__(self, stack: LocalStack) -> None:
        self._flower = stack.flower_url, (stack.flower_user, stack.flower_password)
        # A worker that is parked since before could serve what comes now.
        eventually(lambda: self._all_done(time.time() - 2 * BELL_S))
        self._since = time.time()

    def _jobs(self, since: float) -> list[dict]:
        url, password = self._flower
        query = {"limit": 10_000, "taskname": "scoring.run"}
        jobs = httpx.get(f"{url}/api/tasks", params=query, auth=password).json().values()
        return [job for job in jobs if (job["received"] or 0) > since]

    def _all_done(self, since: float) -> bool:
        return all(job["state"] == "SUCCESS" for job in self._jobs(since))

    def count(self) -> int:
        eventually(lambda: self._jobs(self._since) and self._all_done(self._since))
        return sum(int(re.search(r"requests'?[=:] ?(\d+)", job["result"])[1]) for job in self._jobs(self._since))  # type: ignore[index]


def test_a_thousand_equal_requests_are_one_run_of_the_model(
    stack: LocalStack,
    second_api: str,
    supervise: Callable[[str, str], None],
) -> None:
    """Over two API processes and the Python client, each under a key of its own, while scoring is away."""
    scored = ScoredRows(stack)
    supervise("stop", "scoring")
    body = application(3001)

    async def run() -> list[dict]:
        limits = httpx.Limits(max_connections=60)
        async with (
            httpx.AsyncClient(limits=limits, timeout=60) as web,
            AsyncScoringClient(settings=stack.settings) as client,
        ):

            async def over_http(url: str, n: int) -> str:
                answer = await web.post(f"{url}/v1/scores", json=body, headers={"Idempotency-Key": f"equal-{n}"})
                assert answer.status_code in (200, 202), answer.text
                return answer.json()["request_id"]

            async def directly(n: int) -> str:
                status = await client.submit(**body, idempotency_key=f"equal-{n}")
                return status["request_id"]

            calls = [over_http((stack.api_url, second_api)[n % 2], n) for n in range(600)]
            ids = await asyncio.gather(*calls, *(directly(n) for n in range(600, 1000)))
            await asyncio.to_thread(supervise, "start", "scoring")
            return list(await asyncio.gather(*(client.wait(request_id, 60) for request_id in ids)))

    ends = asyncio.run(run())
    assert len({end["request_id"] for end in ends}) == 1000
    assert {end["state"] for end in ends} == {"succeeded"}
    assert len({end["result"]["score"] for end in ends}) == 1
    assert sorted(end["joined"] for end in ends) == [False] + [True] * 999
    assert scored.count() == 1


def test_a_thousand_equal_requests_at_full_speed_are_one_run_of_the_model(stack: LocalStack, second_api: str) -> None:
    """Nothing is stopped: some join, some find the answer as it arrives, some in the cache."""
    scored = ScoredRows(stack)
    body = application(3002)

    async def run() -> list[dict]:
        async with httpx.AsyncClient(limits=httpx.Limits(max_connections=60), timeout=60) as web:

            async def over_http(n: int) -> dict:
                url = (stack.api_url, second_api)[n % 2]
                return (await web.post(f"{url}/v1/scores?wait=30", json=body)).json()

            return list(await asyncio.gather(*(over_http(n) for n in range(1000))))

    ends = asyncio.run(run())
    assert {end["state"] for end in ends} == {"succeeded"}
    assert len({end["result"]["score"] for end in ends}) == 1
    assert sum(not end["joined"] and not end["cached"] for end in ends) == 1
    assert scored.count() == 1


def test_an_answer_is_given_again_unless_the_producer_says_no_cache(web: httpx.Client) -> None:
    first = web.post("/v1/scores?wait=30", json=application(3003)).json()
    eventually(lambda: web.post("/v1/scores", json=application(3003)).json()["cached"])
    again = web.post("/v1/scores", json=application(3003))
    assert again.status_code == 200
    assert again.json()["result"] == first["result"]
    assert web.get(again.headers["Location"]).json() == again.json()
    for headers in ({"Cache-Control": "no-cache"}, {"Cache-Control": "max-age=0, No-Cache"}):
        fresh = web.post("/v1/scores?wait=30", json=application(3003), headers=headers).json()
        assert (fresh["cached"], fresh["joined"], fresh["attempts"]) == (False, False, 1)
    rows = {"requests": [application(3003), application(3003) | {"no_cache": True}]}
    results = web.post("/v1/scores/batch", json=rows).json()["results"]
    assert [(row["status"], row["score"]["cached"]) for row in results] == [(200, True), (202, False)]
    results = web.post("/v1/scores/batch", json=rows, headers={"Cache-Control": "no-cache"}).json()["results"]
    assert [(row["status"], row["score"]["cached"]) for row in results] == [(202, False)] * 2


def test_members_of_a_flight_have_their_own_ends(
    web: httpx.Client,
    supervise: Callable[[str, str], None],
) -> None:
    supervise("stop", "scoring")
    first, brief, patient = (
        web.post("/v1/scores", json=application(3004) | fields).json()
        for fields in ({}, {"timeout_s": 0.5}, {"priority": "high"})
    )
    assert [status["joined"] for status in (first, brief, patient)] == [False, True, True]
    assert web.delete(f"/v1/scores/{first['request_id']}").json()["state"] == "cancelled"
    late = web.get(f"/v1/scores/{brief['request_id']}", params={"wait": 20})
    assert (late.status_code, late.json()["type"]) == (408, "urn:scoreline:problem:deadline-exceeded")
    supervise("start", "scoring")
    assert web.get(f"/v1/scores/{patient['request_id']}", params={"wait": 30}).json()["state"] == "succeeded"
    assert web.get(f"/v1/scores/{first['request_id']}").json()["state"] == "cancelled"


def test_members_die_together_with_one_letter_and_are_replayed_together(
    stack: LocalStack,
    web: httpx.Client,
    supervise: Callable[[str, str], None],
) -> None:
    supervise("stop", "scoring")
    probe = {"model": "chaos-probe", "features": {"x": 3005, "do": "nan"}}
    ids = [web.post("/v1/scores", json=probe).json()["request_id"] for _ in range(5)]
    supervise("start", "scoring")
    ends = [web.get(f"/v1/scores/{request_id}", params={"wait": 30}).json() for request_id in ids]
    assert {end["state"] for end in ends} == {"dead"}
    letters = eventually(
        lambda: [
            letter
            for letter in web.get("/v1/dead-letters?model=chaos-probe").json()["items"]
            if set(letter["request_ids"]) == set(ids)
        ]
    )
    assert len(letters) == 1  # type: ignore[arg-type]
    assert web.post(f"/v1/dead-letters/{ids[3]}/replay").status_code == 202
    again = [web.get(f"/v1/scores/{request_id}", params={"wait": 30}).json() for request_id in ids]
    assert {(end["state"], end["generation"]) for end in again} == {("dead", 1)}


@pytest.fixture(scope="module")
def cache_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Callable[[], subprocess.Popen]]]:
    """URL of a cache of its own, and how to start it; the one started last is ended here."""
    port, folder, started = free_port(), tmp_path_factory.mktemp("cache"), []

    def start() -> subprocess.Popen:
        started.append(subprocess.Popen(server_command(port, folder, "process"), stdout=subprocess.DEVNULL))
        eventually(lambda: redis.Redis(port=port).ping())
        return started[-1]

    yield f"redis://127.0.0.1:{port}/0", start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def forgetful(
    tmp_path_factory: pytest.TempPathFactory, cache_server: tuple[str, Callable[[], subprocess.Popen]]
) -> Iterator[LocalStack]:
    """A stack with a cache on a server of its own, and results that live for three seconds."""
    url, start = cache_server
    start()
    environment = {"SCORELINE_CACHE_URL": url, "SCORELINE_RESULT_TTL": "3"}
    with LocalStack(read_settings({}), data_dir=tmp_path_factory.mktemp("own"), environment=environment) as running:
        yield running


def test_a_cache_of_its_own_may_die_and_come_back(
    forgetful: LocalStack, cache_server: tuple[str, Callable[[], subprocess.Popen]]
) -> None:
    url, start = cache_server
    with httpx.Client(base_url=forgetful.api_url, timeout=40) as web, redis.Redis.from_url(url) as cache:

        def score(price: float) -> dict:
            answer = web.post("/v1/scores?wait=30", json=application(price))
            assert answer.status_code == 200, answer.text
            return answer.json()

        assert score(1)["state"] == "succeeded"
        eventually(lambda: cache.keys("*}:x:*"))
        with redis.Redis.from_url(forgetful.store_url) as store:
            assert not store.keys("*}:x*"), "the ledger's server holds none of it"
            eventually(lambda: not store.keys("*}:f:*"))  # which remembers an end for two seconds
        assert score(1)["cached"]
        cache.shutdown(nosave=True)
        for price in (1, 2, 3):
            computed = score(price)
            assert (computed["state"], computed["cached"], computed["attempts"]) == ("succeeded", False, 1)
        start()
        kept, prices = len(cache.keys("*}:x:*")), iter(range(10, 1000))
        eventually(lambda: score(next(prices)) and len(cache.keys("*}:x:*")) > kept, within_s=60)


def test_results_expire_and_memory_returns(forgetful: LocalStack) -> None:
    settings = read_settings({"SCORELINE_STORE_URL": forgetful.store_url, "SCORELINE_RESULT_TTL": "3"})
    with ScoringClient(settings=settings) as client, redis.Redis.from_url(forgetful.store_url) as store:

        def used() -> int:
            for dedup_token in store.keys("*}:a:*"):  # as if two minutes had passed
                store.delete(dedup_token)
            return store.info("memory")["used_memory"]

        def run(count: int, first: int) -> list[str]:
            documents = [application(first + n / 1000) | {"idempotency_key": f"{first}-{n}"} for n in range(count)]
            # In parts: each is read long before its results expire, however busy the machine is.
            ends = [end for at in range(0, count, 250) for end in client.score_many(documents[at : at + 250])]
            assert {end["state"] for end in ends} == {"succeeded"}  # type: ignore[index]
            return [end["request_id"] for end in ends]  # type: ignore[index]

        def emptied() -> bool:
            return not any(store.keys(f"*}}:{kind}:*") for kind in "rokfem")

        run(200, 50)  # what every store grows once: connections, scripts, the first tables
        eventually(emptied)
        before = used()
        ids = run(5000, 1000)
        grown = used() - before
        assert grown > 2_000_000
        eventually(emptied)
        eventually(lambda: used() - before < 0.03 * grown)
        with pytest.raises(Gone):
            client.get(ids[0])
        with httpx.Client(base_url=forgetful.api_url) as web:
            gone = web.get(f"/v1/scores/{ids[0]}")
        assert (gone.status_code, gone.json()["type"]) == (410, "urn:scoreline:problem:gone")
