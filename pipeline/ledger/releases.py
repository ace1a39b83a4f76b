"""Releases: which version of each model is current, and what its input must look like. Needs no torch."""

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from redis.exceptions import WatchError

from pipeline.contracts.features import feature_names
from pipeline.contracts.lanes import ModelRef
from pipeline.contracts.problems import UnknownModel
from pipeline.contracts.stages import Stage
from pipeline.ledger import keys
from pipeline.ledger.connection import AsyncClient, store_problems

State = str  # "current" or "available"


class ReleaseConflict(Exception):
    """A version that is released already would get another content."""


@dataclass(frozen=True)
class Release:
    """One released version of a model."""

    name: str
    version: str
    digest: str
    pool: str
    input_schema: dict[str, Any]
    cache_s: float = 0
    """How long its answers may be given again, in seconds; 0: not at all."""

    @cached_property
    def ref(self) -> ModelRef:
        """What is pinned when a request is accepted."""
        return ModelRef(self.name, self.version, self.digest, self.pool)

    @cached_property
    def feature_names(self) -> tuple[str, ...]:
        """Its features, in the order in which their values are stored."""
        return feature_names(self.input_schema)

    @cached_property
    def scoring_lane(self) -> str:
        """The lane that names everything of it: model, version, digest and pool."""
        return self.ref.lane(Stage.SCORING)


@dataclass(frozen=True, slots=True)
class ReleaseTable:
    """All releases at one epoch."""

    epoch: bytes
    current: dict[str, str]
    versions: dict[tuple[str, str], Release]

    def resolve(self, wanted: str) -> Release:
        """The release of ``MODEL`` (its current version) or ``MODEL@VERSION``; UnknownModel."""
        name, at, version = wanted.partition("@")
        found = self.versions.get((name, version if at else self.current.get(name, "")))
        if found is None:
            known = ", ".join(sorted(f"{model}@{current}" for model, current in self.current.items())) or "none yet"
            raise UnknownModel(f"no model {wanted!r} is released; current: {known}")
        return found

    def documents(self) -> list[dict[str, Any]]:
        """As ``GET /v1/models`` shows them."""
        return [
            {
                "name": release.name,
                "version": release.version,
                "digest": release.digest,
                "state": "current" if self.current[release.name] == release.version else "available",
                "input_schema": release.input_schema,
            }
            for _, release in sorted(self.versions.items())
        ]


async def read_releases(client: AsyncClient) -> ReleaseTable:
    """The table as it is now."""
    with store_problems():
        async with client.pipeline(transaction=True) as pipe:
            pipe.get(keys.EPOCH)
            pipe.hgetall(keys.RELEASES)
            epoch, stored = await pipe.execute()
    current: dict[str, str] = {}
    versions: dict[tuple[str, str], Release] = {}
    for name, blob in stored.items():
        document = json.loads(blob)
        current[name.decode()] = document["current"]
        for release in document["versions"]:
            versions[name.decode(), release["version"]] = Release(**release)
    return ReleaseTable(epoch or b"0", current, versions)


async def publish(client: AsyncClient, release: Release, *, make_current: bool) -> bool:
    """Add a version; make it current if asked or if the model has none. False if nothing changed.

    ReleaseConflict if the version exists with another digest: a version never changes its content.
    """
    with store_problems():
        async with client.pipeline(transaction=True) as pipe:
            while True:
                await pipe.watch(keys.RELEASES, keys.EPOCH)
                blob = await pipe.hget(keys.RELEASES, release.name)
                document: dict[str, Any] = json.loads(blob) if blob else {"current": release.version, "versions": []}
                known = {entry["version"]: entry for entry in document["versions"]}
                before = json.dumps(document)
                if release.version in known:
                    if known[release.version]["digest"] != release.digest:
                        raise ReleaseConflict(
                            f"{release.name}@{release.version} is released with digest "
                            f"{known[release.version]['digest'][:12]}, the artifact here has {release.digest[:12]}: "
                            "give the new artifact a new version"
                        )
                else:
                    document["versions"].append(asdict(release))
                if make_current:
                    document["current"] = release.version
                if blob and json.dumps(document) == before:
                    await pipe.unwatch()
                    return False
                pipe.multi()
                pipe.hset(keys.RELEASES, release.name, json.dumps(document))
                pipe.incr(keys.EPOCH)
                try:
                    await pipe.execute()
                except WatchError:
                    continue
                return True
