"""Durability ``replica``: what is acknowledged stands on a second server."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from pipeline.cli.doctor import examine
from pipeline.client import AsyncScoringClient
from pipeline.contracts.ids import from_text
from pipeline.contracts.lanes import ModelRef
from pipeline.contracts.problems import StoreUnavailable
from pipeline.contracts.releases import Release
from pipeline.contracts.stages import Stage
from pipeline.ledger.keys import claims, record, wake
from pipeline.ledger.releases import publish
from pipeline.ledger.scripts import Scripts
from pipeline.settings import Settings, read_settings
from pipeline.stack.store_server import server_command
from pipeline.store.connection import connect, connect_async
from tests.support.processes import eventually, free_port


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[tuple[Settings, subprocess.Popen, int]]:
    """Settings for a server, its replica's process, and that one's port."""
    ports, processes = (free_port(), free_port()), []
    for port in ports:
        folder = tmp_path / str(port)
        folder.mkdir()
        command = server_command(port, folder, "replica")
        if processes:
            command += ["--replicaof", "127.0.0.1", str(ports[0])]
        processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
        eventually(lambda port=port: redis.Redis(port=port).ping())
    eventually(lambda: redis.Redis(port=ports[1]).info("replication")["master_link_status"] == "up")
    environment = {"SCORELINE_STORE_URL": f"redis://127.0.0.1:{ports[0]}/0", "SCORELINE_DURABILITY": "replica"}
    yield read_settings(environment), processes[1], ports[1]
    for process in processes:
        process.kill()
        process.wait()


def test_what_is_acknowledged_is_on_the_replica(servers: tuple[Settings, subprocess.Popen, int]) -> None:
    settings, replica, port = servers

    async def run() -> None:
        store = connect_async(settings)
        await publish(store, Release("m", "1", "a" * 64, "", {}), make_current=True)
        await store.aclose()
        async with AsyncScoringClient(settings=settings, retry_for_s=0) as client:
            status = await client.submit("m", {"n": 1})
            assert redis.Redis(port=port).exists(record(from_text(status["request_id"])))

            os.kill(replica.pid, signal.SIGSTOP)
            for _ in range(2):  # the second time all is known here already, and still nowhere else
                with pytest.raises(StoreUnavailable, match="no replica has confirmed"):
                    await client.submit("m", {"n": 2}, idempotency_key="k")
                with pytest.raises(StoreUnavailable, match="no replica has confirmed"):
                    await client.cancel(status["request_id"])

        async with AsyncScoringClient(settings=settings, retry_for_s=30) as client:
            before = await client.store.hget("{p00}:counts", "accepted")
            submitting = asyncio.create_task(client.submit("m", {"n": 3}))
            while await client.store.hget("{p00}:counts", "accepted") == before:
                pass  # each look gives way to the other task
            assert not submitting.done(), "written, and not acknowledged"
            os.kill(replica.pid, signal.SIGCONT)
            status = await submitting
            assert redis.Redis(port=port).exists(record(from_text(status["request_id"])))
            assert await client.store.hget("{p00}:counts", "accepted") == b"3", "sent again, accepted once"

    asyncio.run(run())


def test_the_doctor_misses_the_replica(servers: tuple[Settings, subprocess.Popen, int]) -> None:
    settings, replica, _ = servers
    assert {check.name: check.ok for check in asyncio.run(examine(settings))}["replicas"]
    replica.kill()
    found = eventually(
        lambda: [check for check in asyncio.run(examine(settings)) if check.name == "replicas" and not check.ok]
    )
    assert "nothing would be accepted" in found[0].detail  # type: ignore[index]


def test_a_wake_is_for_one_server_and_its_claim_is_on_the_replica(
    servers: tuple[Settings, subprocess.Popen, int],
) -> None:
    settings, _, port = servers
    primary, replica = connect(settings), redis.Redis(port=port)
    scripts, model = Scripts(primary), ModelRef("m", "1", "a" * 64)
    lane = model.lane(Stage.PREPROCESS)

    async def submit() -> None:
        async with AsyncScoringClient(settings=settings, retry_for_s=0) as client:
            await publish(client.store, Release(model.name, model.version, model.digest, "", {}), make_current=True)
            await client.submit("m", {"n": 1})

    scripts.heartbeat(args=["w1", "{}", "1"])
    assert scripts.park(args=[f"w1 7:1 64 {lane}"]) == b"parked"
    asyncio.run(submit())  # acknowledged: the replica has all that was written
    assert primary.llen(wake("w1", "7:1")) > 1, "the batch is in the wake"
    assert replica.hkeys(claims("w1")) == [b"7:1"]
    assert not replica.exists(wake("w1", "7:1"))
