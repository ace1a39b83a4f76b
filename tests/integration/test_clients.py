"""The Python clients against a real stack: shared round trips, streams, problems."""

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from pipeline.client import AsyncScoringClient, ScoringClient
from pipeline.contracts.ids import accepted_ms, from_text
from pipeline.contracts.problems import InvalidRequest, NotFound, StoreUnavailable, UnknownModel
from pipeline.stack.local import LocalStack
from tests.conftest import eventually, free_port
from tests.integration.test_http import APPLICATION


def request(number: int = 0, **fields: object) -> dict:
    features = APPLICATION | {"Price": 100 + number}
    return {"model": "credit-default", "features": features, "no_cache": True, **fields}


@pytest.fixture
def client(stack: LocalStack) -> Iterator[ScoringClient]:
    with ScoringClient(settings=stack.settings) as opened:
        yield opened


def test_submit_get_and_wait(client: ScoringClient) -> None:
    accepted = client.submit("credit-default", APPLICATION, priority="high", timeout_s=60, no_cache=True)
    assert (accepted["state"], accepted["priority"]) == ("queued", "high")
    ended = client.wait(accepted["request_id"])
    assert ended["state"] == "succeeded"
    assert client.get(accepted["request_id"]) == ended
    assert client.get_many([accepted["request_id"]] * 3) == [ended] * 3
    assert client.score("credit-default", APPLICATION)["result"] == ended["result"]


def test_one_client_serves_many_threads(client: ScoringClient) -> None:
    with ThreadPoolExecutor(32) as pool:
        ends = list(pool.map(lambda n: client.score("credit-default", request(n)["features"]), range(200)))
    assert {end["state"] for end in ends} == {"succeeded"}
    assert len({end["request_id"] for end in ends}) == 200


def test_concurrent_calls_share_round_trips(stack: LocalStack) -> None:
    async def run() -> tuple[int, set[str]]:
        async with AsyncScoringClient(settings=stack.settings) as client:
            await client.releases()
            before = (await client.store.info("commandstats")).get("cmdstat_evalsha", {}).get("calls", 0)
            accepted = await asyncio.gather(
                *(client.submit("credit-default", request(n, priority="low")["features"]) for n in range(500))
            )
            after = (await client.store.info("commandstats"))["cmdstat_evalsha"]["calls"]
            ends = await asyncio.gather(*(client.wait(status["request_id"]) for status in accepted))
            return after - before, {end["state"] for end in ends}

    calls, states = asyncio.run(run())
    assert states == {"succeeded"}
    # 500 submits in scripts of up to 128; what remains are the workers' and the sweeper's own.
    assert calls < 200


def test_streams_keep_their_order_and_hold_bad_rows_in_place(client: ScoringClient) -> None:
    rows = [request(n) for n in range(300)]
    rows[7] = {"model": "credit-default"}
    rows[150] = {"model": "nothing", "features": {}}
    for answers in (list(client.submit_many(rows)), list(client.score_many(iter(rows)))):
        assert len(answers) == 300
        assert isinstance(answers[7], InvalidRequest)
        assert isinstance(answers[150], UnknownModel)
        # Not the whole ids: two batches may be accepted in one millisecond, and only within one the rest ascends.
        moments = [accepted_ms(from_text(answer["request_id"])) for answer in answers if isinstance(answer, dict)]
        assert len(moments) == 298
        assert moments == sorted(moments)


def test_a_stream_is_read_no_faster_than_it_is_taken(client: ScoringClient) -> None:
    taken = 0

    def endless() -> Iterator[dict]:
        nonlocal taken
        while True:
            taken += 1
            yield request(taken)

    stream = client.submit_many(endless())
    for _ in range(10):
        next(stream)
    stream.close()  # type: ignore[attr-defined]
    # What was answered, what is in flight, the part after that, and what is read ahead; and one in the reader's hand.
    assert taken <= 5 * 128 + 1


def test_what_the_callers_iterable_raises_reaches_the_caller(client: ScoringClient) -> None:
    def broken(error: BaseException) -> Iterator[dict]:
        yield request(1)
        raise error

    for error in (ValueError("no more rows"), SystemExit(7), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            list(client.submit_many(broken(error)))
    assert client.score("credit-default", APPLICATION)["state"] == "succeeded", "the client is as good as before"


@pytest.mark.parametrize("method", ["submit_many", "score_many"])
def test_a_source_that_pauses_keeps_no_answers_back(client: ScoringClient, method: str) -> None:
    answered = threading.Event()

    def source() -> Iterator[dict]:
        yield from (request(n) for n in range(3))
        assert answered.wait(30), "the answers to what was given so far must not wait for more"
        yield request(4)

    stream = getattr(client, method)(source())
    assert [next(stream)["model"] for _ in range(3)] == ["credit-default"] * 3
    answered.set()
    assert len(list(stream)) == 1


def test_all_answers_come_before_the_sources_error(client: ScoringClient, http: httpx.Client) -> None:
    def source() -> Iterator[dict]:
        yield from (request(n) for n in range(400))
        raise ValueError("row 401 is broken")

    before = http.get("/v1/stats").json()["counts"].get("accepted", 0)
    answers: list = []
    with pytest.raises(ValueError, match="row 401"):
        answers.extend(client.submit_many(source()))  # keeps what came before an error
    assert len(answers) == 400
    assert http.get("/v1/stats").json()["counts"]["accepted"] - before == 400


def test_hundreds_of_streams_at_once_share_the_connections(stack: LocalStack) -> None:
    async def run() -> list[int]:
        async with AsyncScoringClient(settings=stack.settings) as client:

            async def stream(number: int) -> int:
                return len([status async for status in client.submit_many([request(number)]) if "state" in status])

            return list(await asyncio.gather(*(stream(number) for number in range(300))))

    assert asyncio.run(run()) == [1] * 300


def test_an_interrupt_while_a_stream_waits_ends_it(client: ScoringClient) -> None:
    reading, release = threading.Event(), threading.Event()

    def source() -> Iterator[dict]:
        reading.set()
        release.wait(30)
        yield request(1)

    def interrupt() -> None:
        reading.wait(30)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a parent may have had it ignored
    try:
        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            list(client.submit_many(source()))
    finally:
        signal.signal(signal.SIGINT, before)
        release.set()
    assert client.score("credit-default", APPLICATION)["state"] == "succeeded", "the client is as good as before"


def test_closing_ends_other_threads_calls(stack: LocalStack) -> None:
    client = ScoringClient(settings=stack.settings)
    probe = client.submit("chaos-probe", {"x": 0, "do": "slow", "seconds": 2})
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.wait, probe["request_id"], 60)
        eventually(waiting.running)
        client.close()
        with pytest.raises(RuntimeError, match="closed"):
            waiting.result(30)
    with pytest.raises(RuntimeError, match="closed"):
        client.get(probe["request_id"])


def test_an_async_iterable_is_taken_too(stack: LocalStack) -> None:
    async def rows() -> object:
        for number in range(5):
            yield request(number)

    async def run() -> list:
        async with AsyncScoringClient(settings=stack.settings) as client:
            return [status async for status in client.score_many(rows())]  # type: ignore[arg-type]

    assert [status["state"] for status in asyncio.run(run())] == ["succeeded"] * 5


def test_each_problem_has_its_exception(client: ScoringClient) -> None:
    with pytest.raises(UnknownModel):
        client.submit("nothing", {})
    with pytest.raises(InvalidRequest) as caught:
        client.submit("credit-default", {}, timeout_s=0)
    assert caught.value.errors == [{"pointer": "/timeout_s", "message": "Input should be greater than or equal to 0.1"}]
    with pytest.raises(InvalidRequest):
        client.get("nonsense")
    known = client.submit("credit-default", APPLICATION)["request_id"]
    with pytest.raises(NotFound):
        client.get(f"{known[:-12]}000000000000")


def test_a_store_that_is_away_is_one_exception() -> None:
    url = f"redis://127.0.0.1:{free_port()}/0"
    with ScoringClient(url, retry_for_s=0.5) as client, pytest.raises(StoreUnavailable):
        client.submit("credit-default", APPLICATION)


def test_closing_twice_and_leaving_no_thread(stack: LocalStack) -> None:
    client = ScoringClient(settings=stack.settings)
    client.close()
    client.close()
    assert "scoring-client" not in {thread.name for thread in threading.enumerate()}
