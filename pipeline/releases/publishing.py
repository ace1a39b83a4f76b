"""Publishing: artifacts of the model store become releases in the ledger, once each is proved to work."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from pipeline.contracts.failures import StageFailure
from pipeline.contracts.releases import Release
from pipeline.ledger.releases import ReleaseConflict, publish, read_releases
from pipeline.models.artifacts import Artifact
from pipeline.models.folder import ModelStore, Refused
from pipeline.store.connection import AsyncClient

Prove = Callable[[ModelStore, Sequence[Artifact]], Iterable[str | None]]
"""Yields for each artifact, in order, why its example does not pass the three stages; None if it does."""


@dataclass(slots=True)
class Published:
    """The outcome of publishing: the versions that were ``added``, as MODEL@VERSION, and what was refused and why."""

    added: list[str] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)


def trusted(_: ModelStore, artifacts: Sequence[Artifact]) -> Iterable[None]:
    """Accepts every artifact without proof: for those that are known to work."""
    return [None] * len(artifacts)


async def publish_all(client: AsyncClient, store: ModelStore, prove: Prove = trusted) -> Published:
    """Releases every version of the model store that is not released yet; one that is refused keeps no other back.

    A model's first release becomes its current version; later ones are not current until they are made so.
    ArtifactMissing if the model store cannot be read.
    """
    artifacts, refused = store.scan()
    published = Published(refused=refused)
    released = (await read_releases(client)).versions
    good: list[Artifact] = []
    for artifact in artifacts:
        known = released.get((artifact.ref.name, artifact.ref.version))
        if known is not None and known.digest == artifact.digest:
            continue
        try:
            store.check(artifact)
            if known is not None:
                await _release(client, artifact)
        except (StageFailure, ReleaseConflict) as failure:
            refused.append(_refused(artifact, str(failure)))
        else:
            good.append(artifact)
    for artifact, reason in zip(good, prove(store, good), strict=True):
        if reason is not None:
            refused.append(_refused(artifact, reason))
            continue
        try:
            if await _release(client, artifact):
                published.added.append(f"{artifact.ref.name}@{artifact.ref.version}")
        except ReleaseConflict as conflict:  # another publisher was faster
            refused.append(_refused(artifact, str(conflict)))
    return published


def _refused(artifact: Artifact, reason: str) -> Refused:
    return Refused(f"{artifact.folder.parent.name}/{artifact.folder.name}", reason)


async def _release(client: AsyncClient, artifact: Artifact) -> bool:
    """Releases an artifact; returns whether that is new. ReleaseConflict."""
    ref, manifest = artifact.ref, artifact.manifest
    release = Release(
        ref.name, ref.version, ref.digest, ref.pool, manifest["input_schema"], manifest.get("cache_ttl_s", 0)
    )
    return await publish(client, release, make_current=False)
