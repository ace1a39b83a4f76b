"""Releases: which version of each model is current, and what its input must look like."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pipeline.contracts.features import feature_names
from pipeline.contracts.lanes import ModelRef
from pipeline.contracts.problems import UnknownModel
from pipeline.contracts.stages import Stage


class VersionConflict(Exception):
    """A version exists already with another content. Requests may be pinned to it, so a version never changes."""


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
