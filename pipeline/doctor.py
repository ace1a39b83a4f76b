"""The doctor: whether settings, store and models are fit to run on."""

from dataclasses import dataclass
from typing import Any

from redis.exceptions import RedisError

from pipeline.contracts.failures import StageFailure
from pipeline.contracts.problems import Problem
from pipeline.ledger.connection import AsyncClient, connect_async
from pipeline.ledger.releases import read_releases
from pipeline.model_store import ModelStore, Refused
from pipeline.settings import Settings

OLDEST_SERVER = (9, 1)


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
    except (RedisError, OSError) as error:
        detail = f"{settings.store_url} does not answer ({error}): start it, or set SCORELINE_STORE_URL"
        return [Check("store", False, detail), *checks]
    finally:
        await client.aclose()


async def _store(client: AsyncClient, settings: Settings) -> list[Check]:
    info: dict[str, Any] = await client.info()
    config = {
        name.decode() if isinstance(name, bytes) else name: value.decode() if isinstance(value, bytes) else value
        for name, value in (await client.config_get("maxmemory*", "append*", "hash-max-listpack-value")).items()
    }
    server = "valkey" if "valkey_version" in info else "redis"
    version = str(info.get("valkey_version") or info["redis_version"])
    recent = tuple(int(part) for part in version.split(".")[:2]) >= (OLDEST_SERVER if server == "valkey" else (8, 4))
    policy, fsync = config["maxmemory-policy"], config["appendfsync"]
    append_only = config["appendonly"] == "yes"
    wanted = {"process": ("no", "always"), "disk": ("always",), "replica": ("always",)}[settings.durability]
    durable = append_only and fsync in wanted
    if fsync == "everysec" and append_only:
        advice = "appendfsync everysec acknowledges writes that it may lose: set it to always (disk) or no (process)"
    elif not append_only:
        advice = "appendonly is off: a restart of the server loses everything; set appendonly yes"
    else:
        advice = f"appendonly yes, appendfsync {fsync}"
        if not durable:
            advice += f": SCORELINE_DURABILITY={settings.durability} needs appendfsync {wanted[0]}"
    checks = [
        Check("store", True, f"{server} {version} at {settings.store_url}"),
        Check("store version", recent, "has MSETEX" if recent else "too old: use Valkey 9.1 or Redis 8.4 and later"),
        Check(
            "eviction",
            policy == "noeviction",
            f"maxmemory-policy {policy}" + ("" if policy == "noeviction" else " drops requests: set it to noeviction"),
        ),
        Check("durability", durable, advice),
    ]
    if settings.durability == "replica":
        replicas = info["connected_slaves"]
        advice = f"{replicas} connected" if replicas else "none is connected: nothing would be accepted"
        checks.append(Check("replicas", replicas > 0, advice))
    return checks


async def _cache(settings: Settings) -> list[Check]:
    if settings.cache_url is None:
        return []
    client = connect_async(settings.model_copy(update={"store_url": settings.cache_url}))
    try:
        await client.ping()
    except (RedisError, OSError) as error:
        # Nothing is lost without it, and nothing is kept from being scored.
        return [Check("cache", False, f"{settings.cache_url} does not answer ({error}): everything is computed anew")]
    finally:
        await client.aclose()
    return [Check("cache", True, f"answers at {settings.cache_url}")]


def _models(settings: Settings) -> list[Check]:
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
    return [Check("releases", True, ", ".join(f"{name}@{version}" for name, version in table.current.items()))]
