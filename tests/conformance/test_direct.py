"""Calls to the store take a connection that is theirs alone, and leave it only when their reply has been read."""

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from redis.exceptions import ConnectionError as StoreConnectionError
from redis.exceptions import ResponseError

from pipeline.settings import Settings, read_settings
from pipeline.store.client import DirectAsyncClient
from pipeline.store.connection import connect, connect_async


@pytest.fixture
def settings(valkey: str) -> Settings:
    return read_settings({}).model_copy(update={"store_url": valkey})


@pytest.fixture
def client(settings: Settings) -> Iterator[Any]:
    client = connect(settings, extra_wait_s=10)
    yield client
    client.close()


@pytest.fixture
def operator(settings: Settings) -> Iterator[Any]:
    client = connect(settings)
    yield client
    client.close()


def test_a_thread_keeps_its_connection_and_shares_it_with_none(client: Any) -> None:
    mine = {client.client_id() for _ in range(3)}
    assert len(mine) == 1
    others: list[int] = []
    thread = threading.Thread(target=lambda: others.append(client.client_id()))
    thread.start()
    thread.join()
    assert others
    assert not mine & set(others)


def test_after_an_error_of_the_server_the_connection_goes_on(client: Any) -> None:
    before = client.client_id()
    with pytest.raises(ResponseError):
        client.execute_command("GET")
    assert client.client_id() == before


def test_a_connection_that_the_server_has_closed_is_replaced_unnoticed(client: Any, operator: Any) -> None:
    before = client.client_id()
    operator.client_kill_filter(_id=str(before))
    assert client.client_id() != before


def test_a_client_outlives_any_number_of_connections(client: Any, operator: Any) -> None:
    for _ in range(2 * client.connection_pool.max_connections):
        operator.client_kill_filter(_id=str(client.client_id()))
    assert client.ping()


def test_the_reply_of_an_interrupted_call_is_nobody_elses(client: Any, operator: Any) -> None:
    class Interrupted(Exception):
        pass

    def interrupt(*_: object) -> None:
        raise Interrupted

    before, me = client.client_id(), threading.get_ident()

    def push_once_it_waits() -> None:
        while not operator.info("clients")["blocked_clients"]:
            pass
        signal.pthread_kill(me, signal.SIGUSR1)

    usual = signal.signal(signal.SIGUSR1, interrupt)
    try:
        thread = threading.Thread(target=push_once_it_waits)
        thread.start()
        with pytest.raises(Interrupted):
            client.blpop("never", 5)
        thread.join()
    finally:
        signal.signal(signal.SIGUSR1, usual)
    assert client.echo("mine") == b"mine"
    assert client.client_id() != before


def test_a_fork_has_a_connection_of_its_own(client: Any) -> None:
    before, (reading, writing) = client.client_id(), os.pipe()
    child = os.fork()
    if not child:
        os.write(writing, str(client.client_id()).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert int(os.read(reading, 100)) != before
    assert client.client_id() == before


def test_in_an_event_loop_calls_at_once_have_connections_of_their_own_and_later_ones_take_them(
    settings: Settings,
) -> None:
    async def run() -> None:
        client = connect_async(settings)
        first = set(await asyncio.gather(*(client.client_id() for _ in range(5))))
        assert len(first) == 5
        assert {await client.client_id() for _ in range(5)} <= first
        with pytest.raises(ResponseError):
            await client.execute_command("GET")
        assert set(await asyncio.gather(*(client.client_id() for _ in range(5)))) == first
        await client.aclose()

    asyncio.run(run())


def test_in_an_event_loop_what_the_server_has_closed_is_replaced_and_who_was_cancelled_leaves_nothing(
    settings: Settings, operator: Any
) -> None:
    async def run() -> None:
        client = connect_async(settings)
        before = await client.client_id()
        await asyncio.to_thread(operator.client_kill_filter, _id=str(before))
        while not await client._idle[0].can_read():
            await asyncio.sleep(0)  # until the loop has heard of it
        after = await client.client_id()
        assert after != before
        waits = asyncio.create_task(client.blpop("never", 1))
        while not await asyncio.to_thread(lambda: operator.info("clients")["blocked_clients"]):
            pass
        waits.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waits
        assert await client.echo("mine") == b"mine"
        await client.aclose()

    asyncio.run(run())


def test_who_finds_no_connection_free_waits_for_one_but_not_for_ever(settings: Settings) -> None:
    async def run() -> None:
        pool = connect_async(settings).connection_pool
        client = DirectAsyncClient(connection_pool=pool, connections=1, patience_s=0.2)
        pair = await asyncio.gather(client.client_id(), client.client_id())
        assert pair[0] == pair[1], "one after the other"
        holds = asyncio.create_task(client.blpop("never", 1))
        await asyncio.sleep(0)
        with pytest.raises(StoreConnectionError, match="no connection was free"):
            await client.ping()
        holds.cancel()
        await client.aclose()

    asyncio.run(run())
