"""Releases in the ledger: which versions each model has, which is current, and the input schema of each."""

import json
from dataclasses import asdict
from typing import Any

from redis.exceptions import WatchError

from pipeline.contracts.releases import Release, ReleaseTable, VersionConflict
from pipeline.ledger import keys
from pipeline.store.connection import AsyncClient
from pipeline.store.errors import store_problems


class ReleaseConflict(VersionConflict):
    """The version is released already, with another content."""


async def read_releases(client: AsyncClient) -> ReleaseTable:
    """Reads the release table; StoreUnavailable."""
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
    """Adds a version, and makes it current if asked or if the model has no other. Returns whether anything changed.

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
