"""A failover after which the old primary goes on as a replica: no open connection breaks, and all have to move."""

import asyncio
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import redis
from redis.exceptions import ConnectionError as StoreConnectionError

from chaos.proxy import ProxyProcess
from pipeline.client import ScoringClient
from pipeline.ledger import keys
from pipeline.ledger.producers.notifications import Notifications
from pipeline.ledger.rights import lacking, speaks_against
from pipeline.models.folder import ModelStore
from pipeline.releases.publishing import publish_all
from pipeline.settings import Settings, read_settings
from pipeline.store.client import Moved
from pipeline.store.connection import connect, connect_async
from tests.support.processes import StartService, become_ready, eventually, free_port
from tests.support.requests import APPLICATION
from tests.support.servers import EMBEDDED, command_of


@dataclass
class Pair:
    """A primary, its replica, and the one address that leads to whichever is the primary."""

    ports: tuple[int, int]
    proxy: ProxyProcess
    settings: Settings

    def client(self, place: int) -> redis.Redis:
        return redis.Redis(port=self.ports[place], decode_responses=True)

    def fail_over(self) -> None:
        """The replica becomes the primary, the primary its replica; the address leads there for who connects anew."""
        old, new = self.client(0), self.client(1)
        eventually(lambda: new.info("replication")["master_link_status"] == "up")
        old.execute_command("CLIENT", "PAUSE", "10000", "WRITE")
        eventually(lambda: new.info()["slave_repl_offset"] == old.info("replication")["master_repl_offset"])
        new.execute_command("REPLICAOF", "NO", "ONE")
        old.execute_command("REPLICAOF", "127.0.0.1", self.ports[1])
        old.execute_command("CLIENT", "UNPAUSE")
        self.proxy.target(self.ports[1])


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with ExitStack() as stack:
        ports = (free_port(), free_port())
        for port in ports:
            folder = tmp_path / f"store-{port}"
            folder.mkdir()
            process = subprocess.Popen(command_of(EMBEDDED, port, folder), stdout=subprocess.DEVNULL)
            stack.callback(process.wait)
            stack.callback(process.kill)
            eventually(lambda port=port: redis.Redis(port=port).ping())
        redis.Redis(port=ports[1]).execute_command("REPLICAOF", "127.0.0.1", ports[0])
        proxy = stack.enter_context(ProxyProcess(["store"]))
        proxy.target(ports[0])
        url = f"redis://127.0.0.1:{proxy.ports['store']}/0"
        yield Pair(ports, proxy, read_settings({"SCORELINE_STORE_URL": url}))


def test_a_client_of_either_kind_is_at_the_new_primary_with_its_next_call(pair: Pair) -> None:
    client = connect(pair.settings)
    client.set("{p00}:confirm", "before")

    async def run() -> None:
        store = connect_async(pair.settings)
        await asyncio.gather(*(store.set("{p00}:confirm", "before") for _ in range(5)))  # five connections
        pair.fail_over()
        with pytest.raises(Moved, match="READONLY"):
            await store.set("{p00}:confirm", "after")
        for _ in range(5):
            await store.set("{p00}:confirm", "after")
        await store.aclose()

    asyncio.run(run())
    with pytest.raises(Moved, match="READONLY"):
        client.set("{p00}:confirm", "after")
    client.set("{p00}:confirm", "after")
    client.close()


def test_a_pipeline_and_a_script_move_too(pair: Pair) -> None:
    client = connect(pair.settings)
    script = client.register_script("return redis.call('SET', '{p00}:confirm', '1')")

    def piped() -> None:
        pipe = client.pipeline(transaction=True)
        pipe.get("{p00}:confirm")
        pipe.set("{p00}:confirm", "1")
        pipe.execute()

    piped()
    script()
    pair.fail_over()
    for call in (piped, script):
        with pytest.raises(Moved):
            call()
        call()
    client.close()


def test_who_waits_in_a_blocking_read_is_told_and_connects_anew(pair: Pair) -> None:
    client, said = connect(pair.settings, extra_wait_s=30), []

    def wait() -> None:
        while not said or isinstance(said[-1], StoreConnectionError):  # the address may lead elsewhere only later
            try:
                said.append(client.blmpop(20, 1, "{p00}:wake:x", direction="LEFT"))
            except StoreConnectionError as error:
                said.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    eventually(lambda: pair.client(0).info("clients")["blocked_clients"] == 1)
    pair.fail_over()
    pair.client(1).lpush("{p00}:wake:x", "here")
    waiting.join(20)
    assert isinstance(said[0], Moved)
    assert said[-1] == [b"{p00}:wake:x", [b"here"]]


def test_the_channel_of_ends_is_left_with_the_old_primary(pair: Pair) -> None:
    """The old primary, cut off from the new one, would never publish anything again; it answers pings."""

    async def run() -> None:
        store = connect_async(pair.settings)
        notifications = Notifications(store)
        notifications.start()
        await store.set("{p00}:confirm", "1")

        async def heard_at(place: int) -> None:
            client = pair.client(place)
            while not client.pubsub_numsub(keys.ENDED)[0][1]:
                await asyncio.sleep(0.01)

        await heard_at(0)
        pair.fail_over()
        with pytest.raises(Moved):
            await store.set("{p00}:confirm", "1")
        await heard_at(1)
        assert not pair.client(0).pubsub_numsub(keys.ENDED)[0][1]
        await notifications.stop()
        await store.aclose()

    asyncio.run(asyncio.wait_for(run(), 60))


def test_readiness_is_a_write(pair: Pair) -> None:
    client = connect(pair.settings)
    assert speaks_against(client, pair.settings, "service") == ""
    pair.client(0).execute_command("REPLICAOF", "127.0.0.1", pair.ports[0] + 1)
    assert "takes no writes" in speaks_against(client, pair.settings, "service")
    assert "takes no writes" in speaks_against(client, pair.settings, "service"), "wherever it connects to"
    pair.client(0).execute_command("REPLICAOF", "NO", "ONE")
    assert lacking(client, pair.settings, "service") == ""
    client.close()


def test_every_service_goes_on_after_a_failover_without_being_started_again(pair: Pair, start: StartService) -> None:
    async def publish() -> None:
        store = connect_async(pair.settings)
        await publish_all(store, ModelStore(pair.settings.model_store))
        await store.aclose()

    asyncio.run(publish())
    url = pair.settings.store_url
    names = ("api", "sweeper", "preprocess", "scoring", "postprocess")
    services = [start(name, url) for name in names]
    become_ready(*services)
    api = services[0].url
    accepted: list[str] = []

    def submit() -> bool:
        body = {"model": "credit-default", "features": APPLICATION, "timeout_s": 120}
        answer = httpx.post(f"{api}/v1/scores", json=body, headers={"Cache-Control": "no-cache"}, timeout=10)
        if answer.status_code in (200, 202):
            accepted.append(answer.json()["request_id"])
        return answer.status_code in (200, 202)

    def ended(request_id: str) -> bool:
        answer = httpx.get(f"{api}/v1/scores/{request_id}", timeout=10)
        return answer.status_code == 200 and answer.json()["state"] == "succeeded"

    with ScoringClient(url) as client:
        first = client.submit("credit-default", APPLICATION, no_cache=True)["request_id"]
        assert submit()
        eventually(lambda: ended(accepted[0]))
        eventually(lambda: ended(first))
        pids = [service.process.pid for service in services]

        pair.fail_over()

        second = client.submit("credit-default", APPLICATION, no_cache=True)["request_id"]
        eventually(submit)
        for request_id in (second, *accepted):
            eventually(lambda request_id=request_id: ended(request_id))
        become_ready(*services)
    eventually(lambda: pair.client(1).get("{p00}:leader"))
    assert [service.process.poll() for service in services] == [None] * len(services), "none has ended"
    assert pids == [service.process.pid for service in services]
    assert pair.client(0).info("replication")["role"] == "slave"
    bells = pair.client(1).info("clients")["blocked_clients"]
    assert bells >= 3, "workers hear bells at the new primary"
