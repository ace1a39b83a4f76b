"""The Python clients end, whatever happens: forks, closing, interrupts, sources that raise, stores that swallow.

Every wait has a generous time limit, so that a call that hangs fails its test.
"""

import asyncio
import concurrent.futures
import contextlib
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis

from pipeline.client import AsyncScoringClient, FakeScoringClient, ScoringClient
from pipeline.contracts.ids import random_tails, to_text
from pipeline.contracts.problems import Gone, NotFound, Problem, StoreUnavailable
from pipeline.contracts.releases import Release
from pipeline.ledger.releases import publish
from pipeline.settings import read_settings
from pipeline.stack.store_server import server_command
from pipeline.store.connection import connect_async
from tests.bad_stores import BadStore, bad_store
from tests.conftest import eventually, free_port

HANGS_S = 30
UNKNOWN = "01890a5d-ac96-774b-bcce-b302099a8057"


def row(number: int = 0) -> dict:
    return {"model": "ending", "features": {"x": number}, "no_cache": True}


@pytest.fixture(scope="module")
def store(valkey: str) -> str:
    """A store with one model, and no workers; its URL."""

    async def add() -> None:
        client = connect_async(read_settings({"SCORELINE_STORE_URL": valkey}))
        await publish(client, Release("ending", "1", "0" * 64, "", {}), make_current=True)
        await client.aclose()

    asyncio.run(add())
    return valkey


@pytest.fixture
def client(store: str) -> Iterator[ScoringClient]:
    with ScoringClient(store) as opened:
        yield opened


@pytest.fixture
def swallowing() -> Iterator[BadStore]:
    yield from bad_store(b"")


@pytest.fixture
def read_only() -> Iterator[BadStore]:
    yield from bad_store(b"-READONLY You can't write against a read only replica.\r\n" * 8)


def within(seconds: float, call: Callable[[], object]) -> object:
    """What the call gives; it fails if that takes longer."""
    answers: list[object] = []

    def run() -> None:
        try:
            answers.append(call())
        except BaseException as error:  # noqa: BLE001
            answers.append(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        eventually(lambda: answers, within_s=seconds)
    except AssertionError:
        pytest.fail(f"it hangs for {seconds} s")
    if isinstance(answers[0], BaseException):
        raise answers[0]
    return answers[0]


def in_child(work: Callable[[], object]) -> str:
    """The repr of what ``work`` gives in a forked process; it fails if the process hangs."""
    near, far = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(far, repr(work()).encode())
        except BaseException as error:  # noqa: BLE001
            os.write(far, repr(error).encode())
        finally:
            os._exit(0)
    os.close(far)
    killer = threading.Timer(HANGS_S, os.kill, (pid, signal.SIGKILL))
    killer.start()
    with os.fdopen(near, "rb") as answer:
        said = answer.read().decode()
    killer.cancel()
    os.waitpid(pid, 0)
    return said or "it hung"


def script(text: str, *arguments: str) -> str:
    """What a Python script prints; it fails if it hangs or exits with an error."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text), *arguments],
        capture_output=True, check=False, text=True, timeout=HANGS_S + 30,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def connections(url: str) -> int:
    with redis.Redis.from_url(url) as own:
        return own.info("clients")["connected_clients"]


def interrupted(call: Callable[[], object], when: threading.Event) -> None:
    """Press Ctrl-C in the middle of a call."""

    def interrupt() -> None:
        when.wait(HANGS_S)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a parent may have had it ignored
    try:
        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            call()
    finally:
        signal.signal(signal.SIGINT, before)


# Forks


def test_a_client_made_before_a_fork_works_in_the_child_and_in_the_parent(client: ScoringClient) -> None:
    def work() -> tuple[str, list[str]]:
        submitted = client.submit(**row(1))["request_id"]
        many = [client.get(answer["request_id"])["state"] for answer in client.submit_many([row(2)])]  # type: ignore[index]
        many.append(client.cancel(submitted)["state"])
        client.close()
        client.close()
        with pytest.raises(RuntimeError, match="closed"):
            client.get(submitted)
        return client.__class__.__name__, many

    before = client.submit(**row())["request_id"]
    assert in_child(work) == "('ScoringClient', ['queued', 'cancelled'])"
    assert in_child(client.close) == "None"
    assert client.get(before)["state"] == "queued"
    assert client.submit(**row())["state"] == "queued"


def test_a_fork_in_the_middle_of_other_threads_calls(client: ScoringClient) -> None:
    stop = threading.Event()

    def submit() -> int:
        count = 0
        while not stop.is_set():
            count += client.submit(**row())["state"] == "queued"
        return count

    with ThreadPoolExecutor(8) as pool:
        busy = [pool.submit(submit) for _ in range(8)]
        said = [in_child(lambda: client.submit(**row())["state"]) for _ in range(10)]
        stop.set()
        assert all(each.result(HANGS_S) for each in busy)
    assert said == ["'queued'"] * 10


def test_worker_processes_share_a_client_that_was_made_before_them(client: ScoringClient) -> None:
    """As with gunicorn's preload, or Celery's prefork."""
    client.releases()
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    workers = [
        context.Process(target=lambda: answers.put([client.submit(**row())["request_id"] for _ in range(20)]))
        for _ in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(HANGS_S)
        assert worker.exitcode == 0
    ids = [each for _ in workers for each in answers.get()]
    assert len(set(ids)) == 80
    assert {status["state"] for status in client.get_many(ids)} == {"queued"}  # type: ignore[index]


def test_a_child_that_exits_disturbs_nothing_of_its_parent(store: str) -> None:
    """It unwinds all of its objects, among them copies of the parent's connections and event loop."""
    said = script(
        """
        import gc, os, sys
        from pipeline.client import ScoringClient
        client = ScoringClient(sys.argv[1], retry_for_s=0)
        row = {"model": "ending", "features": {}}
        client.submit(**row)
        for _ in range(3):
            if not os.fork():
                client.submit(**row)
                gc.collect()
                sys.exit()
            os.wait()
            print(client.submit(**row)["model"], flush=True)
        client.close()
        """,
        store,
    )
    assert said.split() == ["ending"] * 3


def test_a_stream_does_not_go_on_in_a_child(client: ScoringClient) -> None:
    stream = client.submit_many(row(n) for n in range(1000))
    next(stream)

    def go_on() -> str:
        with pytest.raises(RuntimeError, match="fork"):
            list(stream)
        return client.submit(**row())["state"]

    assert in_child(go_on) == "'queued'"
    assert len(list(stream)) == 999


def test_an_asynchronous_client_begins_anew_in_a_child(store: str) -> None:
    client = AsyncScoringClient(store)

    async def use() -> str:
        return (await client.submit(**row()))["state"]

    async def fork_within() -> tuple[str, str, str]:
        first = await use()
        return first, in_child(lambda: asyncio.run(use())), await use()

    assert asyncio.run(fork_within()) == ("queued", "'queued'", "queued")
    assert in_child(lambda: [asyncio.run(use()), asyncio.run(client.close())]) == "['queued', None]"
    assert asyncio.run(use()) == "queued"
    asyncio.run(client.close())


# Event loops


def test_an_asynchronous_client_serves_one_event_loop_after_another(store: str) -> None:
    client = AsyncScoringClient(store)

    async def use() -> str:
        client.core.listen()
        return (await client.submit(**row()))["state"]

    assert [asyncio.run(use()) for _ in range(6)] == ["queued"] * 6
    asyncio.run(client.close())
    gc.collect()
    before = connections(store)
    again = AsyncScoringClient(store)
    for _ in range(6):
        asyncio.run(again.submit(**row()))
        gc.collect()
    assert connections(store) <= before + 3, "those of closed event loops are closed"
    asyncio.run(again.close())


def test_an_asynchronous_client_in_two_event_loops_at_once_is_an_error(store: str) -> None:
    async def check() -> None:
        async with AsyncScoringClient(store) as client:
            await client.submit(**row())

            def elsewhere() -> None:
                with pytest.raises(RuntimeError, match="another event loop"):
                    asyncio.run(client.submit(**row()))
                with pytest.raises(RuntimeError, match="another event loop"):
                    asyncio.run(client.close())

            await asyncio.wait_for(asyncio.to_thread(elsewhere), HANGS_S)
            assert (await client.submit(**row()))["state"] == "queued"

    asyncio.run(check())


@pytest.mark.parametrize("way", ["get_many", "submit_many", "score_many"])
def test_a_source_may_use_the_client_that_reads_it(client: ScoringClient, way: str) -> None:
    if way == "get_many":
        ids = (client.submit(**row(n))["request_id"] for n in range(3))
        answers = within(HANGS_S, lambda: client.get_many(ids))  # type: ignore[arg-type]
    else:

        def rows() -> Iterator[dict]:
            for number in range(3):
                client.cancel(client.submit(**row(number), idempotency_key=f"{way}-{number}")["request_id"])
                yield row(number) | {"idempotency_key": f"{way}-{number}"}

        answers = within(HANGS_S, lambda: list(getattr(client, way)(rows())))
    assert len(answers) == 3  # type: ignore[arg-type]


def test_a_call_from_within_the_clients_thread_is_an_error(client: ScoringClient) -> None:
    async def call_there() -> None:
        client.get(UNKNOWN)

    with pytest.raises(RuntimeError, match="wait for itself"):
        within(HANGS_S, lambda: client._run(call_there()))


# Closing


def test_closing_ends_the_calls_of_all_threads_once(store: str) -> None:
    for _ in range(20):
        client = ScoringClient(store)
        client.releases()
        outcomes: list[str] = []
        started = threading.Barrier(9)

        def submit(client: ScoringClient = client, started: threading.Barrier = started, got: list = outcomes) -> None:
            started.wait(HANGS_S)
            try:
                while True:
                    client.submit(**row())
            except RuntimeError as error:
                got.append(str(error))

        threads = [threading.Thread(target=submit, daemon=True) for _ in range(8)]
        for thread in threads:
            thread.start()
        started.wait(HANGS_S)
        within(HANGS_S, client.close)
        for thread in threads:
            thread.join(HANGS_S)
            assert not thread.is_alive(), "a call hangs"
        assert len(outcomes) == 8
        assert all("closed" in outcome for outcome in outcomes)


def test_closing_from_many_threads_at_once(store: str) -> None:
    for _ in range(30):
        client = ScoringClient(store)
        client.releases()
        with ThreadPoolExecutor(4) as pool:
            closing = [pool.submit(client.close) for _ in range(4)]
            assert [each.result(HANGS_S) for each in closing] == [None] * 4
        with pytest.raises(RuntimeError, match="closed"):
            client.submit(**row())
    assert "scoring-client" not in {thread.name for thread in threading.enumerate()}


def test_closing_over_a_store_that_swallows_everything(swallowing: BadStore) -> None:
    client = ScoringClient(swallowing.url)
    calls: list[Callable[[], object]] = [
        lambda: client.submit(**row()),
        lambda: client.wait(UNKNOWN, 60),
        lambda: client.cancel(UNKNOWN),
        lambda: client.get_many([UNKNOWN]),
        client.releases,
        lambda: list(client.submit_many([row()])),
        lambda: list(client.score_many([row()])),
    ]
    with ThreadPoolExecutor(len(calls)) as pool:
        busy = [pool.submit(call) for call in calls]
        assert swallowing.heard.wait(HANGS_S)
        within(HANGS_S, client.close)
        for each in busy:
            with pytest.raises(RuntimeError, match="closed"):
                each.result(HANGS_S)


def test_every_method_of_a_closed_client_raises_at_once(store: str) -> None:
    client, fake = ScoringClient(store), FakeScoringClient(lambda model, features: {})
    for closed in (client, fake):
        closed.close()
        closed.close()
        for call in (
            lambda closed=closed: closed.submit(**row()),
            lambda closed=closed: closed.submit_many([row()]),
            lambda closed=closed: closed.score_many([row()]),
            lambda closed=closed: closed.get(UNKNOWN),
            lambda closed=closed: closed.get_many([UNKNOWN]),
            lambda closed=closed: closed.wait(UNKNOWN),
            lambda closed=closed: closed.cancel(UNKNOWN),
            lambda closed=closed: closed.score("ending", {}),
            closed.__enter__,
        ):
            with pytest.raises(RuntimeError, match="this client is closed"):
                call()
    with pytest.raises(RuntimeError, match="this client is closed"):
        client.releases()


def test_a_closed_asynchronous_client_raises_and_leaves_no_connection(store: str) -> None:
    async def check() -> None:
        client = AsyncScoringClient(store)
        client.core.listen()
        await asyncio.gather(*(client.submit(**row(n)) for n in range(50)))
        accepted = (await client.submit(**row()))["request_id"]
        held = [asyncio.create_task(client.wait(accepted, 60)), asyncio.create_task(client.score("ending", {"x": 1}))]
        while len(client._core.notifications._waits) < 2:  # type: ignore[union-attr]
            await asyncio.sleep(0.01)
        held.append(asyncio.create_task(client.submit(**row())))
        await asyncio.sleep(0)
        await asyncio.wait_for(client.close(), HANGS_S)
        await client.close()
        for each in held:
            with pytest.raises(RuntimeError, match="closed"):
                await asyncio.wait_for(each, HANGS_S)

        async def stream() -> None:
            async for _ in client.submit_many([row()]):
                pass

        async def score_stream() -> None:
            async for _ in client.score_many([row()]):
                pass

        for call in (
            lambda: client.submit(**row()),
            lambda: client.get(UNKNOWN),
            lambda: client.get_many([UNKNOWN]),
            lambda: client.wait(UNKNOWN),
            lambda: client.cancel(UNKNOWN),
            lambda: client.score("ending", {}),
            client.releases,
            stream,
            score_stream,
            client.__aenter__,
        ):
            with pytest.raises(RuntimeError, match="this client is closed"):
                await call()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    before = connections(store)
    asyncio.run(check())
    eventually(lambda: connections(store) <= before)


def test_a_constructor_that_raises_leaves_nothing() -> None:
    before = set(threading.enumerate())
    for make in (
        lambda: ScoringClient(f"redis://127.0.0.1:{free_port()}/0", retry_for_s=1000),
        lambda: ScoringClient("no-url"),
    ):
        with pytest.raises(Exception, match=r"retry_for_s|URL"):
            make()
    assert set(threading.enumerate()) <= before


def test_a_client_that_is_collected_unclosed_ends_its_thread_and_connections(store: str) -> None:
    before = connections(store)

    def leave() -> weakref.ref[ScoringClient]:
        client = ScoringClient(store)
        client.submit(**row())
        stream = client.submit_many(row(n) for n in range(1000))
        next(stream)
        return weakref.ref(client)

    with pytest.warns(ResourceWarning, match="not closed"):
        gone = leave()
    gc.collect()
    assert gone() is None
    eventually(lambda: connections(store) <= before)
    eventually(lambda: "scoring-client" not in {thread.name for thread in threading.enumerate()})

    async def leave_async() -> None:
        client = AsyncScoringClient(store)
        client.core.listen()
        await client.submit(**row())

    async def unclosed() -> None:
        with pytest.warns(ResourceWarning, match="not closed"):
            await leave_async()
        async with asyncio.timeout(HANGS_S):
            while asyncio.all_tasks() != {asyncio.current_task()}:
                await asyncio.sleep(0.01)

    asyncio.run(unclosed())
    eventually(lambda: connections(store) <= before)


@pytest.mark.parametrize(
    "left",
    [
        "client.submit(**row)",
        "stream = client.submit_many(itertools.repeat(row)); next(stream)",
        "cycle = [client.submit_many(itertools.repeat(row))]; cycle.append(cycle); next(cycle[0])",
        "holder = Holder()",
    ],
)
def test_the_interpreter_exits_with_an_unclosed_client(store: str, left: str) -> None:
    """Its threads do not run any more when objects are unwound: a call that waited for them would wait for ever."""
    said = script(
        f"""
        import itertools, sys
        from pipeline.client import ScoringClient
        row = {{"model": "ending", "features": {{}}}}
        client = ScoringClient(sys.argv[1])
        print(client.submit(**row)["state"], flush=True)
        class Holder:
            own, ending = client, RuntimeError
            def __del__(self):
                try:
                    self.own.get("{UNKNOWN}")
                except self.ending as error:
                    print(error, flush=True)
                self.own.close()
        {left}
        """,
        store,
    )
    assert said.split("\n")[0] == "queued"
    assert ("the interpreter is ending" in said) == ("Holder" in left)


# Sources


ERRORS = [asyncio.CancelledError, concurrent.futures.CancelledError, KeyboardInterrupt, SystemExit, GeneratorExit]


class Source:
    """Gives three rows, then raises; an iterator and no generator, for those turn some errors into others."""

    def __init__(self, error: type[BaseException]) -> None:
        self._error, self._number = error, 0

    def __iter__(self) -> Iterator[dict]:
        return self

    def __next__(self) -> dict:
        self._number += 1
        if self._number > 3:
            raise self._error
        return row(self._number) | {"timeout_s": 0.1}

    async def aiter(self) -> AsyncIterator[dict]:
        for each in self:
            yield each


class AsyncSource:
    def __init__(self, error: type[BaseException]) -> None:
        self._source = Source(error)

    def __aiter__(self) -> AsyncIterator[dict]:
        return self  # type: ignore[return-value]

    async def __anext__(self) -> dict:
        return next(self._source)


@pytest.fixture
def ends(store: str) -> Iterator[None]:
    """Whatever is accepted ends: as cancelled."""
    stop = threading.Event()

    def cancel_all() -> None:
        with ScoringClient(store) as client, redis.Redis.from_url(store) as own:
            while not stop.wait(0.02):
                for member in own.zrange("{p00}:open", 0, -1):
                    with contextlib.suppress(Problem):
                        client.cancel(to_text(member))

    thread = threading.Thread(target=cancel_all)
    thread.start()
    yield
    stop.set()
    thread.join(HANGS_S)


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("method", ["submit_many", "score_many"])
def test_the_caller_gets_whatever_a_source_raises(
    client: ScoringClient, ends: None, method: str, error: type[BaseException]
) -> None:
    answers: list[object] = []
    with pytest.raises(error):
        within(HANGS_S, lambda: answers.extend(getattr(client, method)(Source(error))))
    assert len(answers) == 3
    assert client.submit(**row())["state"] == "queued", "the client is as good as before"


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("method", ["submit_many", "score_many"])
@pytest.mark.parametrize("kind", [Source, AsyncSource])
def test_the_caller_of_an_asynchronous_client_gets_it_too(
    store: str, ends: None, method: str, error: type[BaseException], kind: type
) -> None:
    async def check() -> tuple[int, str]:
        async with AsyncScoringClient(store) as client:
            answers = 0

            async def take() -> type[BaseException] | None:
                nonlocal answers
                try:
                    async for _ in getattr(client, method)(kind(error)):
                        answers += 1
                except BaseException as raised:  # noqa: BLE001
                    return type(raised)
                return None

            assert await asyncio.wait_for(take(), HANGS_S) is error
            return answers, (await client.submit(**row()))["state"]

    assert within(2 * HANGS_S, lambda: asyncio.run(check())) == (3, "queued")


# Time


CALLS: dict[str, Callable[[ScoringClient], object]] = {
    "submit": lambda client: client.submit(**row()),
    "submit-key": lambda client: client.submit(**row(), idempotency_key="k"),
    "get": lambda client: client.get(UNKNOWN),
    "get_many": lambda client: client.get_many([UNKNOWN]),
    "cancel": lambda client: client.cancel(UNKNOWN),
    "releases": lambda client: client.releases(),
    "submit_many": lambda client: list(client.submit_many([row()])),
    "score_many": lambda client: list(client.score_many([row()])),
    "wait": lambda client: client.wait(UNKNOWN, 3),
    "score": lambda client: client.score("ending", {"x": 1}, timeout_s=3),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", ["swallowing", "read_only"])
def test_a_call_has_one_time_for_queueing_trips_and_pauses(
    kind: str, call: str, request: pytest.FixtureRequest
) -> None:
    """Trying again for 3 s takes 3 s: not those, a pause, and two more calls of 2 s each."""
    store: BadStore = request.getfixturevalue(kind)
    with ScoringClient(store.url, retry_for_s=3) as client, pytest.raises(StoreUnavailable):
        within(7, lambda: CALLS[call](client))


@pytest.mark.parametrize("retry_for_s", [0, 30])
def test_a_wait_over_a_store_that_swallows_everything_ends_in_its_time(
    swallowing: BadStore, retry_for_s: float
) -> None:
    with ScoringClient(swallowing.url, retry_for_s=retry_for_s) as client:
        for call in (
            lambda: client.wait(UNKNOWN, 1),
            lambda: client.wait(UNKNOWN, 0),
            lambda: client.score("ending", {"x": 1}, timeout_s=1),
        ):
            with pytest.raises(StoreUnavailable):
                within(5, call)


def test_a_call_that_queues_behind_others_has_its_own_time(swallowing: BadStore) -> None:
    async def check() -> list[object]:
        async with AsyncScoringClient(swallowing.url, retry_for_s=3) as client:
            first = asyncio.create_task(client.submit(**row(0)))
            await asyncio.to_thread(swallowing.heard.wait, HANGS_S)
            calls = [client.submit(**row(n)) for n in range(300)]
            return await asyncio.wait_for(asyncio.gather(first, *calls, return_exceptions=True), 8)

    assert {type(outcome) for outcome in asyncio.run(check())} == {StoreUnavailable}


def test_a_store_that_comes_back_within_the_time_is_met(tmp_path: Path) -> None:
    """Though pauses grow, the last tries come close to the end."""
    port = free_port()
    with ScoringClient(f"redis://127.0.0.1:{port}/0", retry_for_s=20) as client, ThreadPoolExecutor(1) as pool:
        call = pool.submit(client.get, UNKNOWN)
        with pytest.raises(concurrent.futures.TimeoutError):
            call.result(4)  # it is tried again, in growing pauses
        server = subprocess.Popen(server_command(port, tmp_path, "process"), stdout=subprocess.DEVNULL)
        try:
            with pytest.raises(Gone):
                call.result(HANGS_S)
        finally:
            server.terminate()
            server.wait()


# Interrupts


def test_an_interrupt_ends_a_call_and_its_task(swallowing: BadStore) -> None:
    settings = read_settings({"SCORELINE_STORE_URL": swallowing.url, "SCORELINE_STORE_TIMEOUT_S": "600"})
    with ScoringClient(settings=settings) as client:
        interrupted(lambda: client.cancel(UNKNOWN), swallowing.heard)
        assert swallowing.left.wait(HANGS_S), "its connection would be held for 600 s"


def test_an_interrupt_leaves_a_client_that_is_as_good_as_before(client: ScoringClient) -> None:
    accepted = client.submit(**row())["request_id"]
    waits = client._client._core.notifications._waits  # type: ignore[union-attr]
    waiting = threading.Event()

    def watch() -> None:
        eventually(lambda: waits)
        waiting.set()

    threading.Thread(target=watch).start()
    interrupted(lambda: client.wait(accepted, 600), waiting)
    eventually(lambda: not waits)
    assert client.submit(**row())["state"] == "queued"


def test_a_signal_handler_may_close_the_client_in_the_middle_of_a_call(store: str) -> None:
    client = ScoringClient(store)
    accepted = client.submit(**row())["request_id"]
    waits = client._client._core.notifications._waits  # type: ignore[union-attr]

    def terminate() -> None:
        eventually(lambda: waits)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, lambda *_: client.close())
    try:
        threading.Thread(target=terminate).start()
        with pytest.raises(RuntimeError, match="closed"):
            client.wait(accepted, HANGS_S)
    finally:
        signal.signal(signal.SIGTERM, before)


# The clock


def test_the_ledgers_clock_decides_what_is_gone(client: ScoringClient, monkeypatch: pytest.MonkeyPatch) -> None:
    ttl_s = read_settings({}).result_ttl

    def stamped(age_s: float) -> str:
        return to_text(round((now - age_s) * 1000).to_bytes(6, "big") + random_tails(1)[0])

    now = time.time()
    young, old = stamped(60), stamped(ttl_s + 60)
    for jump_s in (0, 10 * ttl_s, -10 * ttl_s):
        monkeypatch.setattr(time, "time", lambda jump_s=jump_s: now + jump_s)
        with pytest.raises(NotFound):
            client.get(young)
        with pytest.raises(Gone):
            client.get(old)
        assert [type(answer) for answer in client.get_many([old, young, old])] == [Gone, NotFound, Gone]
        with pytest.raises(Gone):
            client.cancel(old)
