"""Which requests one computation answers: those with the same cache key."""

import hashlib
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from pipeline.contracts.canonical import canonical
from pipeline.contracts.lanes import ModelRef
from pipeline.contracts.tenants import NOBODY

PREPROCESSING_VERSION = 1
"""To be raised whenever ``preprocess`` makes something else of the same input and the same artifact."""


def cache_keys(
    model: ModelRef, *, allow_degraded: bool, tenant: bytes = NOBODY
) -> Callable[[Mapping[str, Any]], bytes]:
    """What makes the cache keys of features for a model.

    A key is 16 bytes of SHA-256 over model version, preprocessing version, tenant (a tenant's bytes) and canonical
    input; empty for features that are no JSON: they stand apart. So one tenant never learns what another has scored.
    A request that accepts no fallback's answer does not share the computation of those that do, for it may end in one.
    """
    begun = _begun(model, PREPROCESSING_VERSION, allow_degraded, tenant)

    def cache_key(features: Mapping[str, Any]) -> bytes:
        try:
            packed = canonical(features)
        except (TypeError, ValueError):
            return b""
        digest = begun.copy()
        digest.update(packed)
        return digest.digest()[:16]

    return cache_key


@lru_cache(maxsize=1024)
def _begun(model: ModelRef, preprocessing: int, allow_degraded: bool, tenant: bytes) -> "hashlib._Hash":
    """The digest of what many requests have in common. Its length is fixed: what follows cannot be taken for it."""
    common = [model.name, model.version, model.digest, model.pool, preprocessing, allow_degraded]
    if tenant != NOBODY:  # the nameless tenant's keys stay what they were before there were tenants
        common.append(tenant.hex())
    return hashlib.sha256(hashlib.sha256(canonical(common)).digest())
