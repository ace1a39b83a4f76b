"""What the user of the store must be allowed to do, and whether it is: asked of the server, under one's own rights.

A script goes as far as its user may: what it did before a refused command stays done. So every service asks before it
begins, and says that it is not ready when a right was taken away later. Versions are not looked at: what counts is what
the server does.

What the scripts call is read from their sources; what Python sends by itself stands here. Tests compare both with what
really runs under a user that has these rights alone.
"""

import re
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, Literal
from urllib.parse import urlsplit

from redis.exceptions import NoPermissionError, RedisError, ResponseError

from pipeline.ledger import keys
from pipeline.ledger.scripts import SCRIPTS, bind, source
from pipeline.settings import Settings
from pipeline.store.connection import AsyncClient, Client, connect
from pipeline.store.errors import as_problem
from pipeline.telemetry.events.services import StoreRefuses

Role = Literal["service", "worker", "publisher"]
"""What asks: a service that uses the ledger (the API, a sweeper), a worker (it hears bells, too), or `publish`."""

OPTIONAL = frozenset({"MSETEX", "INFO", "CONFIG GET", "BGREWRITEAOF"})
"""What the ledger uses where it may, and does without where it may not."""

_PROBE = frozenset({"EVALSHA", "SCRIPT LOAD", "SET"})
_LEDGER = frozenset({
    "BLMPOP", "DEL", "EVALSHA", "EXEC", "EXISTS", "GET", "HDEL", "HGET", "HGETALL", "HKEYS", "HMGET", "HSCAN", "HSET",
    "HVALS", "LLEN", "MGET", "MULTI", "PING", "SCAN", "SET", "SUBSCRIBE", "TIME", "UNSUBSCRIBE", "ZCARD", "ZMSCORE",
    "ZRANGE", "ZRANGEBYSCORE", "ZREM", "ZREVRANGE", "ZREVRANK", "ZSCORE", "SCRIPT LOAD",
})  # fmt: skip
_PUBLISHING = frozenset({"EXEC", "HGET", "HGETALL", "HSET", "GET", "INCRBY", "MULTI", "UNWATCH", "WATCH"})
_BROKER = frozenset({
    "BRPOP", "DEL", "EVALSHA", "EXEC", "EXISTS", "HDEL", "HGET", "HSET", "LLEN", "LPUSH", "MULTI", "PEXPIRE",
    "PING", "PSUBSCRIBE", "PUBLISH", "PUNSUBSCRIBE", "RPOP", "RPUSH", "SADD", "SET", "SMEMBERS", "SREM", "TIME",
    "UNWATCH", "WATCH", "ZADD", "ZRANGE", "ZRANGEBYSCORE", "ZREM", "SCRIPT LOAD",
    "SCRIPT EXISTS",
})  # fmt: skip
"""Of kombu and Celery, also for remote control and Flower."""

_OPTIONS = frozenset({"BYSCORE", "LIMIT", "REV", "WITHSCORES", "LEFT", "RIGHT", "COUNT"})
"""Words in capitals in the scripts that are no commands."""

_ANY_KEY = keys.TAG + "confirm"
_CALLS = {
    "EXEC": "EXEC",
    "MULTI": "MULTI",
    "UNWATCH": "UNWATCH",
    "PING": "PING",
    "TIME": "TIME",
    "UNSUBSCRIBE": "UNSUBSCRIBE",
    "PUNSUBSCRIBE": "PUNSUBSCRIBE",
    "EVALSHA": f"EVALSHA 0 1 {keys.TAG}",
    "SCRIPT LOAD": "SCRIPT LOAD 1",
    "SCRIPT EXISTS": "SCRIPT EXISTS 1",
    "SELECT": "SELECT 0",
    "WAIT": "WAIT 1 1",
    "DEL": f"DEL {_ANY_KEY}",
    "EXISTS": f"EXISTS {_ANY_KEY}",
    "MGET": f"MGET {_ANY_KEY}",
    "MSETEX": f"MSETEX 1 {_ANY_KEY} 1",
    "MSET": f"MSET {_ANY_KEY} 1",
    "UNLINK": f"UNLINK {_ANY_KEY}",
    "WATCH": f"WATCH {_ANY_KEY}",
    "BRPOP": f"BRPOP {_ANY_KEY} 1",
    "BLMPOP": f"BLMPOP 1 1 {_ANY_KEY} LEFT",
    "PUBLISH": f"PUBLISH {keys.ENDED} 1",
    "SUBSCRIBE": f"SUBSCRIBE {keys.ENDED}",
}
"""A whole call of each command whose arguments are not a key and then values."""


@cache
def scripted() -> frozenset[str]:
    """The commands that the scripts call."""
    found: set[str] = set()
    for name in SCRIPTS:
        code = re.sub(r"--[^\n]*", "", source(name))
        found |= set(re.findall(r"'([A-Z]{3,})'", code))
    return frozenset(found - _OPTIONS)


def needed(settings: Settings, role: Role) -> list[str]:
    """The commands without which it cannot do its work, in order; what is optional is not among them."""
    commands = {
        "service": _LEDGER | scripted(),
        "worker": _LEDGER | _BROKER | scripted(),
        "publisher": _PUBLISHING | _PROBE,
    }[role]
    if _database(settings):
        commands |= {"SELECT"}
    if settings.durability == "replica" and role == "service":
        commands |= {"WAIT"}
    return sorted(commands - OPTIONAL)


def rule(settings: Settings, role: Role, commands: Iterable[str]) -> str:
    """The part of ``ACL SETUSER NAME ...`` that allows these commands on the ledger's keys and a role's channels."""
    channels = [f"&{keys.TAG}*"]
    if role == "worker":  # a pattern is allowed as it stands, not for what it matches
        channels += [f"&{channel}" for channel in _broker_channels(settings)]
    grants = [f"+{command.lower().replace(' ', '|')}" for command in commands]
    return " ".join([f"~{keys.TAG}*", *channels, *grants])


def lacking(client: Client, settings: Settings, role: Role) -> str:
    """What its user may not do, and how to allow it; nothing if it may do all that the role needs.

    StoreConnectionError (``Moved``) if the server takes no writes.
    """
    if _has_no_users(client):
        return ""
    commands, calls = _calls(settings, role)
    ask = bind(client, "rights")
    try:
        try:
            refused = ask(args=calls)
        except NoPermissionError:  # perhaps to the script's own key: without it the server says which calls it refuses
            refused = ask(args=calls, keys=[])
    except ResponseError as error:
        return _cannot_ask(error, settings, role)
    return _sentence(settings, role, commands, refused)


async def lacking_async(client: AsyncClient, settings: Settings, role: Role) -> str:
    """The same with an asynchronous client."""
    if _has_no_users(client):
        return ""
    commands, calls = _calls(settings, role)
    ask = bind(client, "rights")
    try:
        try:
            refused = await ask(args=calls)
        except NoPermissionError:
            refused = await ask(args=calls, keys=[])
    except ResponseError as error:
        return _cannot_ask(error, settings, role)
    return _sentence(settings, role, commands, refused)


async def useful_async(client: AsyncClient) -> list[str]:
    """What a script would use besides, and this server knows: without it the same is done by more commands."""
    wanted = sorted(OPTIONAL & scripted())
    unknown = await bind(client, "rights")(args=[_CALLS[command] for command in wanted])
    return [command for number, command in enumerate(wanted, 1) if -number not in unknown]


def speaks_against(client: Client, settings: Settings, role: Role) -> str:
    """Why the store is of no use to this role now, in words; nothing if it is."""
    try:
        return lacking(client, settings, role)
    except (RedisError, OSError) as error:
        return as_problem(error).detail


def demand(settings: Settings, role: Role) -> None:
    """End this process, with a reason, if its user lacks rights. A store that is away is waited for later, as ever."""
    client = connect(settings)
    try:
        wrong = lacking(client, settings, role)
    except (RedisError, OSError):
        return
    finally:
        client.close()
    if wrong:
        StoreRefuses(reason=wrong).emit()
        sys.exit(1)


def _has_no_users(client: Any) -> bool:
    return type(client).__module__.startswith("fakeredis")


def _database(settings: Settings) -> str:
    return urlsplit(settings.store_url).path.strip("/").lstrip("0")


def _broker_channels(settings: Settings) -> list[str]:
    prefix = f"{keys.TAG}/{_database(settings) or 0}."
    return [f"{prefix}celery.pidbox", f"{prefix}celeryev/*"]


def _calls(settings: Settings, role: Role) -> tuple[list[str], list[str]]:
    """Commands, and a whole call of each to ask about."""
    commands = needed(settings, role)
    calls = [_CALLS.get(command, f"{command} {_ANY_KEY} 1 1 1") for command in commands]
    if "PSUBSCRIBE" in commands:
        calls[commands.index("PSUBSCRIBE")] = f"PSUBSCRIBE {_broker_channels(settings)[0]}"
    return commands, calls


def _cannot_ask(error: ResponseError, settings: Settings, role: Role) -> str:
    """It may not run the script that asks, or the server cannot."""
    if isinstance(error, NoPermissionError):
        return _sentence(settings, role, ["EVALSHA", "SCRIPT LOAD"], [1, 2])
    if "compiling" in str(error):
        return f"the server is older than Redis 7.0 and Valkey 7.2: {error}"
    raise error


def _sentence(settings: Settings, role: Role, commands: Sequence[str], refused: Sequence[int]) -> str:
    if not refused:
        return ""
    missing = [commands[number - 1] for number in refused if number > 0]
    unknown = [commands[-number - 1] for number in refused if number < 0]
    if unknown:
        return f"the server does not know: {', '.join(unknown)}; Redis 7.0 and Valkey 7.2 are the oldest that do"
    name = urlsplit(settings.store_url).username or "default"
    return (
        f"the store's user {name} may not: {', '.join(missing)} (on keys and channels {keys.TAG}*); "
        f"allow it: ACL SETUSER {name} {rule(settings, role, missing)}"
    )
