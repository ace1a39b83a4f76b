"""Which requests one computation answers: those with the same cache key."""

from collections.abc import Mapping
from typing import Any

from pipeline.contracts.canonical import digest
from pipeline.contracts.lanes import ModelRef

PREPROCESSING_VERSION = 1
"""To be raised whenever ``preprocess`` makes something else of the same input and the same artifact."""


def cache_key(model: ModelRef, features: Mapping[str, Any], *, allow_degraded: bool) -> bytes:
    """16 bytes of SHA-256 over model version, preprocessing version and canonical input.

    Empty for features that are no JSON: they stand apart. Who accepts no fallback's answer does not share the
    computation of those who do, for it may end in one.
    """
    version = model.name, model.version, model.digest, model.pool, PREPROCESSING_VERSION
    try:
        return digest(version, features, allow_degraded)
    except (TypeError, ValueError):
        return b""
