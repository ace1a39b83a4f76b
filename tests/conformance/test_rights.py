"""The rights that the ledger says it needs: all of them, no others, and each is missed by name."""

import asyncio
import inspect
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import kombu.transport.redis
import pytest
import redis
from redis.commands.core import CoreCommands
from redis.exceptions import ResponseError

from pipeline.cli.doctor import Check, examine
from pipeline.contracts.problems import StoreUnavailable
from pipeline.ledger import rights
from pipeline.ledger.rights import demand, lacking, lacking_async, needed, rule
from pipeline.settings import Settings, read_settings
from pipeline.store.connection import connect
from pipeline.sweeper.loop import Sweeper
from tests.conformance.conftest import Ledger, LedgerMaker, restricted
from tests.support.emitted import emitted

REPOSITORY = Path(__file__).parent.parent.parent


@pytest.fixture
def settings(valkey: str) -> Settings:
    return read_settings({"SCORELINE_STORE_URL": valkey})


def allow(operator: redis.Redis, *words: str) -> None:
    operator.execute_command("ACL", "SETUSER", "exact", *words)


@pytest.mark.parametrize("role", ["service", "worker", "publisher"])
def test_each_right_that_is_taken_away_is_missed_by_name(
    operator: redis.Redis, settings: Settings, role: rights.Role
) -> None:
    own = settings.model_copy(update={"store_url": restricted(operator, settings, role)})
    client = connect(own)
    assert lacking(client, own, role) == ""
    for command in needed(own, role):
        word = command.lower().replace(" ", "|")
        allow(operator, f"-{word}")
        said = lacking(client, own, role)
        assert command in said.split("may not: ")[1].split(" (on")[0].split(", "), said
        assert f"+{word}" in said.split("ACL SETUSER exact ")[1].split()
        allow(operator, *said.split("ACL SETUSER exact ")[1].split())
        assert lacking(client, own, role) == "", "what it says to do is enough"
    client.close()


@pytest.mark.parametrize(
    ("taken", "named"), [("resetkeys", "ZADD"), ("resetchannels", "PUBLISH"), ("resetchannels", "SUBSCRIBE")]
)
def test_keys_and_channels_are_part_of_a_right(
    operator: redis.Redis, settings: Settings, taken: str, named: str
) -> None:
    own = settings.model_copy(update={"store_url": restricted(operator, settings, "worker")})
    client = connect(own)
    allow(operator, taken, *(["~elsewhere:*"] if taken == "resetkeys" else ["&elsewhere:*"]))
    said = lacking(client, own, "worker")
    assert named in said
    allow(operator, *said.split("ACL SETUSER exact ")[1].split())
    assert lacking(client, own, "worker") == ""
    client.close()


def test_the_broker_in_another_database_needs_its_channel_and_select(operator: redis.Redis, settings: Settings) -> None:
    elsewhere = settings.model_copy(update={"store_url": settings.store_url.removesuffix("/0") + "/3"})
    own = elsewhere.model_copy(update={"store_url": restricted(operator, elsewhere, "worker")})
    client = connect(own)
    assert lacking(client, own, "worker") == ""
    assert {"+select", "&{p00}:/3.celery.pidbox"} <= set(rule(own, "worker", needed(own, "worker")).split())
    client.close()


def test_a_service_without_its_rights_ends_with_the_whole_list(operator: redis.Redis, settings: Settings) -> None:
    own = settings.model_copy(update={"store_url": restricted(operator, settings)})
    demand(own, "service")
    allow(operator, "-zadd", "-publish")
    with emitted() as events, pytest.raises(SystemExit) as ended:
        demand(own, "service")
    assert ended.value.code == 1
    assert "may not: PUBLISH, ZADD" in events[0].reason


def test_a_store_that_is_away_ends_no_service(settings: Settings) -> None:
    demand(settings.model_copy(update={"store_url": "redis://127.0.0.1:1/0"}), "service")


def test_a_server_that_does_not_know_a_command_is_told_apart(
    operator: redis.Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rights, "_LEDGER", rights._LEDGER | {"NOSUCH"})
    client = connect(settings)
    assert "the server does not know: NOSUCH" in lacking(client, settings, "service")
    client.close()


class FromBefore:
    """A client of a server that does not know a script's flags, as Redis 6.2."""

    connection_pool = SimpleNamespace(connection_kwargs={})

    def register_script(self, _: str) -> Any:
        def call(**_: object) -> None:
            raise ResponseError("Error compiling script (new function): user_script:1: unexpected symbol near '#'")

        return call


def test_a_server_from_before_scripts_had_flags_is_named(settings: Settings) -> None:
    assert "older than Redis 7.0 and Valkey 7.2" in lacking(FromBefore(), settings, "service")


@pytest.mark.parametrize("make_ledger", ["valkey"], indirect=True)
def test_a_refused_command_is_the_stores_problem_and_names_the_doctor(
    make_ledger: LedgerMaker, operator: redis.Redis
) -> None:
    ledger = make_ledger()
    allow(operator, "-mget")
    with pytest.raises(StoreUnavailable, match="scoreline doctor"):
        ledger.read(b"0" * 16)
    allow(operator, "+mget")
    operator.acl_log_reset()


def test_what_python_sends_is_on_the_list() -> None:
    """Every call of a client of the store, in every module that has one."""
    methods = {name for name, _ in inspect.getmembers(CoreCommands, callable) if not name.startswith("_")}
    text = "".join(path.read_text() for path in [*REPOSITORY.glob("pipeline/**/*.py"), *REPOSITORY.glob("tasks/*.py")])
    found = re.findall(r"(?:client|pipe|store|channel)\.([a-z_]+)\(", text)
    called = {name for name in found if name in methods} - {"register_script", "pubsub", "pipeline"}
    renamed = {"delete": "DEL", "incr": "INCRBY", "config_get": "CONFIG GET"}
    sent = {renamed.get(name, name.upper()) for name in called}
    known = rights._LEDGER | rights._PUBLISHING | rights.OPTIONAL | {"WAIT"}
    assert sent - known == set()
    automatic = {"EVALSHA", "SCRIPT LOAD", "EXEC", "MULTI", "UNSUBSCRIBE", "ZREVRANGE", "SUBSCRIBE", "MSETEX", "LLEN"}
    assert known - sent - automatic == set(), "nothing is asked for in vain"


def test_what_kombu_sends_is_on_the_list() -> None:
    text = inspect.getsource(kombu.transport.redis)
    called = set(re.findall(r"\b(?:client|pipe|c)\.([a-z]+)\(", text))
    scripted = set(re.findall(r"redis\.call\(\s*'([A-Z]+)'", text))
    own = {"connect", "execute", "lock", "multi", "pipeline", "pubsub", "transaction", "handle", "parse"}
    renamed = {"delete": "DEL"}
    sent = {renamed.get(name, name.upper()) for name in called - own} | scripted
    assert sent - rights._BROKER == set()


def test_the_doctor_prints_a_line_that_makes_such_a_user(operator: redis.Redis, settings: Settings) -> None:
    checks = {check.name: check for check in run_doctor(settings)}
    assert checks["rights"].ok
    line = checks["rights"].detail.split("ACL SETUSER scoreline ")[1].replace(">PASSWORD", ">secret")
    operator.execute_command("ACL", "SETUSER", "scoreline", "reset", *line.split())
    own = settings.model_copy(update={"store_url": settings.store_url.replace("//", "//scoreline:secret@")})
    client = connect(own)
    assert lacking(client, own, "worker") == ""
    operator.execute_command("ACL", "DELUSER", "scoreline")
    client.close()


def test_the_doctor_says_refused_where_it_was_refused(operator: redis.Redis, settings: Settings) -> None:
    own = settings.model_copy(update={"store_url": restricted(operator, settings, "worker")})
    allow(operator, "-info", "-config", "-zadd")
    checks = {check.name: check for check in run_doctor(own)}
    assert checks["store"].ok
    assert "INFO is refused" in checks["store"].detail
    assert "secret" not in checks["store"].detail
    assert "may not: ZADD" in checks["rights"].detail
    assert not checks["rights"].ok
    for name in ("eviction", "durability"):
        assert "not known: CONFIG" in checks[name].detail
    wrong = own.model_copy(update={"store_url": own.store_url.replace("secret", "wrong")})
    found = run_doctor(wrong)[0]
    assert "refuses this user" in found.detail
    assert "wrong@" not in found.detail


def run_doctor(settings: Settings) -> list[Check]:
    return asyncio.run(examine(settings))


def test_an_asynchronous_client_asks_the_same(ledger: Ledger) -> None:
    assert ledger.run(lacking_async(ledger.own_async, ledger.settings, "service")) == ""
    assert lacking(ledger.own, ledger.settings, "service") == ""


@pytest.mark.parametrize("make_ledger", ["valkey"], indirect=True)
def test_a_refused_info_costs_the_check_of_memory_alone(make_ledger: LedgerMaker, operator: redis.Redis) -> None:
    ledger = make_ledger()
    allow(operator, "-info")
    sweeper = Sweeper(ledger.own, ledger.settings)
    with emitted() as events:
        for _ in range(3):
            sweeper.sweep()
    assert sweeper.leads
    assert [event.name for event in events].count("memory_unknown") == 1
    (late,) = ledger.accept(timeout_ms=1)
    ledger.turn_clock(1)
    sweeper.sweep()
    assert ledger.states(late) == ["expired"]
    assert operator.acl_log()[0]["object"] == "info"
    operator.acl_log_reset()


@pytest.mark.parametrize("make_ledger", ["valkey"], indirect=True)
def test_a_refused_rewrite_of_the_file_is_said_once(make_ledger: LedgerMaker, operator: redis.Redis) -> None:
    ledger = make_ledger()
    allow(operator, "-bgrewriteaof")
    with emitted() as events:
        ledger.sweeping._rewrite_append_only_file(failing=True)
        ledger.sweeping._rewrite_append_only_file(failing=False)
        ledger.sweeping._rewrite_append_only_file(failing=False)
    assert [event.name for event in events] == ["append_only_file_not_rewritten"]
    operator.acl_log_reset()
