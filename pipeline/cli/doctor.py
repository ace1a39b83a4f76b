"""The doctor: whether settings, store and models are fit to run on."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from pipeline.cli.extras import installed
from pipeline.contracts.failures import StageFailure
from pipeline.contracts.problems import Problem
from pipeline.ledger import keys
from pipeline.ledger.clock import CLOCK_BEHIND_MS
from pipeline.ledger.releases import read_releases
from pipeline.ledger.rights import lacking_async, needed, rule, useful_async
from pipeline.settings import Settings
from pipeline.store.connection import AsyncClient, connect_async
from pipeline.store.errors import ResponseError, StoreError, WrongCredentials

READS_MODELS = "worker"
"""The extra without which artifacts cannot be checked. A producer's machine has neither it nor the models."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at."""

    name: str
    ok: bool
    detail: str


async def examine(settings: Settings) -> list[Check]:
    """Everything the doctor looks at, in order."""
    checks = _models(settings)
    client = connect_async(settings)
    try:
        return [*await _store(client, settings), *await _cache(settings), *checks, *await _releases(client, settings)]
    except WrongCredentials as error:
        detail = f"{_shown(settings)} refuses this user ({error}): check the name and password in SCORELINE_STORE_URL"
        return [Check("store", False, detail), *checks]
    except StoreError as error:
        detail = f"{_shown(settings)} does not answer ({error}): start it, or set SCORELINE_STORE_URL"
        return [Check("store", False, detail), *checks]
    finally:
        await client.aclose()


def _shown(settings: Settings) -> str:
    """The store's address without its password."""
    parts = urlsplit(settings.store_url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


async def _store(client: AsyncClient, settings: Settings) -> list[Check]:
    await client.ping()
    info = await _allowed(client.info)
    config = await _allowed(lambda: client.config_get("maxmemory*", "append*"))
    config = {_text(name): _text(value) for name, value in config.items()}
    checks = [
        Check("store", True, f"{_server(info)} at {_shown(settings)}"),
        await _rights(client, settings),
        await _clock(client),
        _eviction(config.get("maxmemory-policy") or info.get("maxmemory_policy")),
        _durability(config, settings),
    ]
    if settings.durability == "replica":
        replicas = info.get("connected_slaves")
        advice = f"{replicas} connected" if replicas else "none is connected: nothing would be accepted"
        if replicas is None:
            advice = "not known: INFO is refused"
        checks.append(Check("replicas", replicas != 0, advice))
    return checks


async def _allowed(call: Callable[[], Awaitable[dict[Any, Any]]]) -> dict[Any, Any]:
    """The answer to a call that many managed services refuse; nothing if this one does."""
    try:
        return await call()
    except ResponseError:
        return {}


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def _server(info: Mapping[str, Any]) -> str:
    if not info:
        return "a server (INFO is refused: its version and memory are not known)"
    name = "valkey" if "valkey_version" in info else "redis"
    return f"{name} {info.get('valkey_version') or info.get('redis_version')}"


async def _rights(client: AsyncClient, settings: Settings) -> Check:
    lacks = await lacking_async(client, settings, "worker")
    if lacks:
        return Check("rights", False, lacks)
    commands = [*needed(settings, "worker"), *await useful_async(client)]
    line = f"ACL SETUSER scoreline on >PASSWORD resetkeys resetchannels -@all {rule(settings, 'worker', commands)}"
    return Check("rights", True, f"all that is needed; for a user that may do no more: {line}")


async def _clock(client: AsyncClient) -> Check:
    try:
        behind_ms = int(await client.get(keys.OFFSET) or 0)
    except ResponseError:
        return Check("clock", True, "not known: GET is refused")
    if behind_ms <= CLOCK_BEHIND_MS:
        return Check("clock", True, "the server's clock is the ledger's time")
    advice = "times in documents are ahead by that much; it is taken back, a fifth of the time that passes"
    return Check("clock", False, f"the server's clock went back by {behind_ms / 1000:g} s: {advice}")


def _eviction(policy: str | None) -> Check:
    if policy is None:
        return Check("eviction", True, "not known: CONFIG and INFO are refused; maxmemory-policy must be noeviction")
    right = policy == "noeviction"
    return Check(
        "eviction", right, f"maxmemory-policy {policy}" + ("" if right else " drops requests: set it to noeviction")
    )


def _durability(config: Mapping[str, Any], settings: Settings) -> Check:
    wanted = {"process": ("no", "always"), "disk": ("always",), "replica": ("always",)}[settings.durability]
    if "appendonly" not in config or "appendfsync" not in config:
        advice = f"not known: CONFIG is refused; SCORELINE_DURABILITY={settings.durability} needs appendonly yes and"
        return Check("durability", True, f"{advice} appendfsync {wanted[0]}")
    append_only, fsync = config["appendonly"] == "yes", config["appendfsync"]
    durable = append_only and fsync in wanted
    if fsync == "everysec" and append_only:
        advice = "appendfsync everysec acknowledges writes that it may lose: set it to always (disk) or no (process)"
    elif not append_only:
        advice = "appendonly is off: a restart of the server loses everything; set appendonly yes"
    else:
        advice = f"appendonly yes, appendfsync {fsync}"
        if not durable:
            advice += f": SCORELINE_DURABILITY={settings.durability} needs appendfsync {wanted[0]}"
    return Check("durability", durable, advice)


async def _cache(settings: Settings) -> list[Check]:
    if settings.cache_url is None:
        return []
    client = connect_async(settings.model_copy(update={"store_url": settings.cache_url}))
    try:
        await client.ping()
    except StoreError as error:
        # Nothing is lost without it, and nothing is kept from being scored.
        return [Check("cache", False, f"{settings.cache_url} does not answer ({error}): everything is computed anew")]
    finally:
        await client.aclose()
    return [Check("cache", True, f"answers at {settings.cache_url}")]


def _models(settings: Settings) -> list[Check]:
    if not installed(READS_MODELS):
        return [Check("model store", True, f'not looked at: that needs the extra "{READS_MODELS}"')]
    from pipeline.models.folder import ModelStore, Refused

    store = ModelStore(settings.model_store)
    try:
        artifacts, refused = store.scan()
    except StageFailure as failure:
        return [Check("model store", False, str(failure))]
    good = []
    for artifact in artifacts:
        place = f"{artifact.ref.name}/{artifact.ref.version}"
        try:
            store.check(artifact)
        except StageFailure as failure:
            refused.append(Refused(place, str(failure)))
        else:
            good.append(f"{artifact.ref.name}@{artifact.ref.version}")
    checks = [Check("model store", False, f"{each.place}: {each.reason}") for each in refused]
    if good:
        said = f"{', '.join(good)}: manifests are complete, every file is what its manifest says"
        return [Check("model store", True, said), *checks]
    empty = f"{settings.model_store} holds no model that can be served: run scoreline train-demo"
    return [Check("model store", False, empty), *checks]


async def _releases(client: AsyncClient, settings: Settings) -> list[Check]:
    try:
        table = await read_releases(client)
    except Problem as problem:
        return [Check("releases", False, problem.detail)]
    if not table.current:
        return [Check("releases", False, "no model is released: run scoreline publish")]
    released = Check("releases", True, ", ".join(f"{name}@{version}" for name, version in table.current.items()))
    if not installed(READS_MODELS):
        return [released]
    from pipeline.models.folder import ModelStore

    try:
        artifacts = ModelStore(settings.model_store).all()
    except StageFailure as failure:
        return [Check("releases", False, str(failure))]
    stored = {(artifact.ref.name, artifact.ref.version): artifact.digest for artifact in artifacts}
    wrong = [
        f"{name}@{version}"
        for (name, version), release in table.versions.items()
        if stored.get((name, version)) != release.digest
    ]
    if wrong:
        return [Check("releases", False, f"not in this model store with the released content: {', '.join(wrong)}")]
    return [released]
