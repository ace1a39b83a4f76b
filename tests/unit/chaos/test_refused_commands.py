"""Rights on the store: what scripts send is known, each user loses one command for a while, and others keep theirs."""

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from chaos.rights import PASSWORD, Rights, commands, write_users
from chaos.schedule import GROUPS
from pipeline.ledger.rights import scripted
from pipeline.settings import read_settings
from pipeline.stack.store_server import server_command
from pipeline.store.connection import connect_async
from tests.support.processes import eventually, free_port


def test_each_command_of_the_scripts_is_refused_but_for_the_proofs_own_log() -> None:
    assert set(commands()) == scripted() - {"XADD"}
    assert {"ZADD", "HDEL", "MSETEX", "TIME"} <= set(commands())
    assert "XADD" in scripted()


class Asked:
    """Stands in for the store: keeps what is asked of it, and fails when told to."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.asked: list[tuple[Any, ...]] = []

    async def execute_command(self, *arguments: Any) -> None:
        self.asked.append(arguments)
        if self.failures and arguments[-1] == "+@all":
            raise self.failures.pop()


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chaos.rights.REFUSED_S", (0.0, 0.01))
    monkeypatch.setattr("chaos.rights.AGAIN_S", 0.0)


def test_the_seed_decides_the_order_in_which_each_group_is_refused_each_command() -> None:
    def refused(seed: int, group: str) -> list[str]:
        store = Asked()
        rights = Rights(store, seed)

        async def all_of_them() -> None:
            for _ in commands():
                await rights.refuse(group, ["api"])

        asyncio.run(all_of_them())
        return [what[1:] for *_, what in store.asked if what != "+@all"]

    for group in GROUPS:
        assert sorted(refused(1, group)) == commands()
        assert refused(1, group) == refused(1, group)
    assert refused(1, "api") != refused(2, "api")
    assert refused(1, "api") != refused(1, "store")


def test_rights_come_back_though_the_store_has_to_be_asked_again() -> None:
    store = Asked(redis.ConnectionError("away"), redis.TimeoutError("slow"))
    asyncio.run(Rights(store, 1).refuse("store", ["one", "two"]))
    assert store.asked[-2:] == [("ACL", "SETUSER", user, "+@all") for user in ("one", "two")]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[int]:
    """The port of a server with two users."""
    users, port = tmp_path / "users.acl", free_port()
    write_users(users, ["one", "two"])
    command = [*server_command(port, tmp_path, "process"), "--aclfile", str(users)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    eventually(redis.Redis(port=port).ping)
    yield port
    process.terminate()
    process.wait()


def test_a_user_loses_one_command_and_has_it_back_and_another_keeps_it(
    server: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chaos.rights.REFUSED_S", (60, 60))  # until it is cancelled
    monkeypatch.setattr("chaos.rights.commands", lambda: ["GET"])
    one, two = (redis.Redis(port=server, username=name, password=PASSWORD) for name in ("one", "two"))
    admin = redis.Redis(port=server)

    def missing(user: str) -> list[str]:
        rules = admin.acl_getuser(user)["commands"]
        return [rule[1:].upper() for rule in rules if rule.startswith("-")]

    async def refuse() -> None:
        store = connect_async(read_settings({"SCORELINE_STORE_URL": f"redis://127.0.0.1:{server}/0"}))
        refusing = asyncio.create_task(Rights(store, 1).refuse("api", ["one"]))
        await asyncio.to_thread(eventually, lambda: missing("one") == ["GET"])
        with pytest.raises(redis.exceptions.NoPermissionError):
            one.get("k")
        assert (one.exists("k"), two.get("k")) == (0, None)
        refusing.cancel()
        await asyncio.gather(refusing, return_exceptions=True)
        await store.aclose()

    asyncio.run(refuse())
    assert missing("one") == []
    assert one.get("k") is None
