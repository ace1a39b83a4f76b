"""Debian's Redis, the oldest that Scoreline runs on: what is asked of it, and what operators are told."""

import asyncio
import subprocess
from collections.abc import Iterator

import pytest
import redis

from pipeline.cli.doctor import examine
from pipeline.ledger.rights import demand, lacking
from pipeline.settings import Settings, read_settings
from pipeline.store.connection import connect
from tests.support.processes import eventually, free_port
from tests.support.servers import command_of


@pytest.fixture(scope="module")
def oldest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    port = free_port()
    process = subprocess.Popen(
        command_of("redis-server", port, tmp_path_factory.mktemp("store")), stdout=subprocess.DEVNULL
    )
    eventually(lambda: redis.Redis(port=port).ping())
    yield read_settings({"SCORELINE_STORE_URL": f"redis://127.0.0.1:{port}/0"})
    process.terminate()
    process.wait()


def test_it_lacks_nothing_that_is_needed(oldest: Settings) -> None:
    client = connect(oldest)
    for role in ("service", "worker", "publisher"):
        assert lacking(client, oldest, role) == ""  # type: ignore[arg-type]
    client.close()
    demand(oldest, "worker")


def test_it_has_no_msetex_and_the_doctor_grants_none(oldest: Settings) -> None:
    checks = {check.name: check for check in asyncio.run(examine(oldest))}
    assert all(checks[name].ok for name in ("store", "rights", "eviction", "durability"))
    assert checks["store"].detail.startswith("redis ")
    client = connect(oldest)
    client.execute_command("ACL", "SETUSER", *checks["rights"].detail.split("ACL SETUSER ")[1].split())
    assert "+msetex" not in checks["rights"].detail
    client.close()
