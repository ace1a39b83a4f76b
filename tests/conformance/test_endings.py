"""Who waits for an end is woken by it; and to look for itself when the channel of ends may have missed one."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from chaos.proxy import ProxyProcess
from pipeline.contracts.stages import Stage
from pipeline.ledger.keys import ENDED, record
from pipeline.ledger.producers.notifications import Notifications, reliance_times, unpack_announcement
from pipeline.settings import read_settings
from pipeline.store.connection import connect_async
from tests.support.ledger import Ledger

FOR_EVER_S = 3600.0  # a test that waits for so long has failed
ONE, OTHER = b"1" * 16, b"2" * 16
NAMES_ONLY = b"\0"


@pytest.fixture
def network(valkey: str) -> Iterator[ProxyProcess]:
    with ProxyProcess(["listener"]) as proxy:
        proxy.target(int(valkey.rsplit(":", 1)[1].split("/", maxsplit=1)[0]))
        yield proxy


async def told(notifications: Notifications, meanwhile: Callable[[], Coroutine[Any, Any, object]]) -> None:
    """Wait for ONE for ever while something happens."""
    waiting = asyncio.create_task(notifications.wait([ONE], FOR_EVER_S))
    await asyncio.sleep(0)  # it has begun to wait
    await meanwhile()
    await waiting


async def subscribed(notifications: Notifications) -> None:
    """Wait until the channel is there, or there again, which wakes who waits. What is announced before, it misses."""
    await notifications.wait([ONE], FOR_EVER_S)


def with_endings(url: str, test: Callable[[Notifications], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        client = connect_async(read_settings({"SCORELINE_STORE_URL": url}))
        notifications = Notifications(client)
        notifications.start()
        try:
            await test(notifications)
        finally:
            await notifications.stop()
            await client.aclose()

    asyncio.run(run())


def test_an_announcement_wakes_and_is_remembered_if_nobody_waited(valkey: str) -> None:
    store = connect_async(read_settings({"SCORELINE_STORE_URL": valkey}))

    async def test(notifications: Notifications) -> None:
        await subscribed(notifications)
        await told(notifications, lambda: store.publish(ENDED, NAMES_ONLY + OTHER + ONE))
        await notifications.wait([OTHER], FOR_EVER_S)
        await told(notifications, lambda: store.publish(ENDED, NAMES_ONLY + ONE))
        await store.aclose()

    with_endings(valkey, test)


def test_ends_that_nobody_waited_for_are_remembered_in_the_end_no_more(valkey: str) -> None:
    store = connect_async(read_settings({"SCORELINE_STORE_URL": valkey}))
    numbers = [number.to_bytes(16, "big") for number in range(4)]

    async def test(notifications: Notifications) -> None:
        notifications.REMEMBER = 1
        await subscribed(notifications)
        for number in numbers:
            # ONE comes with each, so that it is known when the announcement has been heard.
            await told(notifications, lambda number=number: store.publish(ENDED, NAMES_ONLY + number + ONE))  # type: ignore[misc]
        await notifications.wait(numbers[-2:], FOR_EVER_S)
        forgotten = asyncio.create_task(notifications.wait(numbers[:1], FOR_EVER_S))
        await told(notifications, lambda: store.publish(ENDED, NAMES_ONLY + ONE))
        assert not forgotten.done()
        await store.publish(ENDED, NAMES_ONLY + numbers[0])
        await forgotten
        await store.aclose()

    with_endings(valkey, test)


@pytest.mark.parametrize(("count", "carried"), [(1, True), (3, True), (64, False)])
def test_a_few_ends_are_announced_with_their_records(ledger: Ledger, count: int, carried: bool) -> None:
    channel = ledger.client.pubsub(ignore_subscribe_messages=True)
    channel.subscribe(ENDED)
    channel.get_message(timeout=5)
    ids = ledger.accept(count)
    ledger.pass_stages(ledger.worker(), *Stage)

    message = channel.get_message(timeout=5)
    ended, records = unpack_announcement(message["data"])
    assert ended == set(ids)
    assert records == ({each: ledger.client.get(record(each)) for each in ids} if carried else {})


def test_who_waits_gets_the_record_that_is_announced(valkey: str) -> None:
    store = connect_async(read_settings({"SCORELINE_STORE_URL": valkey}))

    async def test(notifications: Notifications) -> None:
        await subscribed(notifications)
        waiting = asyncio.create_task(notifications.wait([ONE, OTHER], FOR_EVER_S))
        await told(notifications, lambda: store.publish(ENDED, NAMES_ONLY + ONE))
        await store.publish(ENDED, b"\1" + OTHER + b"\0\5" + b"there")
        assert await waiting == {OTHER: b"there"}
        await store.aclose()

    with_endings(valkey, test)


def test_a_lost_connection_wakes_all_to_look_and_announcements_come_again(valkey: str) -> None:
    store = connect_async(read_settings({"SCORELINE_STORE_URL": valkey}))

    async def test(notifications: Notifications) -> None:
        await subscribed(notifications)
        await told(notifications, lambda: store.execute_command("CLIENT", "KILL", "TYPE", "pubsub"))
        await subscribed(notifications)
        await told(notifications, lambda: store.publish(ENDED, NAMES_ONLY + ONE))
        await store.aclose()

    with_endings(valkey, test)


def test_a_connection_that_has_fallen_silent_is_taken_for_lost(valkey: str, network: ProxyProcess) -> None:
    async def test(notifications: Notifications) -> None:
        await subscribed(notifications)
        await told(notifications, lambda: asyncio.to_thread(network.cut, "listener"))
        network.restore("listener")
        await subscribed(notifications)

    with_endings(f"redis://127.0.0.1:{network.ports['listener']}/0", test)


def test_who_waits_while_there_is_no_channel_is_woken_by_it(valkey: str, network: ProxyProcess) -> None:
    network.cut("listener")

    async def test(notifications: Notifications) -> None:
        await told(notifications, lambda: asyncio.to_thread(network.restore, "listener"))

    with_endings(f"redis://127.0.0.1:{network.ports['listener']}/0", test)


def test_who_waits_long_looks_rarely() -> None:
    rely_s = reliance_times()
    assert [next(rely_s) for _ in range(6)] == [1, 2, 4, 8, 10, 10]
