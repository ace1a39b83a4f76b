"""Publishing: the model store's artifacts become releases in the ledger."""

from pipeline.ledger.connection import AsyncClient
from pipeline.ledger.releases import Release, publish
from pipeline.model_store import ModelStore


async def publish_all(client: AsyncClient, store: ModelStore) -> list[str]:
    """Release every version in the store that is not released yet; those that were added, as MODEL@VERSION.

    A model's first release becomes its current version; later ones wait to be made current. ReleaseConflict if a
    released version has another content here.
    """
    added = []
    for artifact in store.all():
        ref = artifact.ref
        manifest = artifact.manifest
        release = Release(
            ref.name, ref.version, ref.digest, ref.pool, manifest["input_schema"], manifest.get("cache_ttl_s", 0)
        )
        if await publish(client, release, make_current=False):
            added.append(f"{ref.name}@{ref.version}")
    return added
