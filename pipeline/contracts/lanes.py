"""Lanes: what a bell rings and a worker serves."""

import re
from dataclasses import dataclass
from functools import lru_cache

from pipeline.contracts.stages import Stage

MODEL_NAME = re.compile(r"^[a-z0-9][a-z0-9-]{0,63}$")
MODEL_VERSION = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$")
_LANE = re.compile(
    r"^(?P<stage>[a-z]+)(?:\.(?P<pool>[a-z0-9-]+))?/(?P<model>[a-z0-9-]+)@(?P<version>[A-Za-z0-9._-]+)#(?P<digest>[0-9a-f]{64})$"
)


@dataclass(frozen=True, slots=True)
class ModelRef:
    """One version of one model: what is pinned when a request is accepted.

    ``digest`` is the SHA-256 (hex) of the artifact's manifest, which itself holds the digest of every file.
    ``pool`` names the group of scoring workers that serve it; empty for the default pool.
    """

    name: str
    version: str
    digest: str
    pool: str = ""

    @property
    def label(self) -> str:
        """``NAME@VERSION``."""
        return f"{self.name}@{self.version}"

    def lane(self, stage: Stage) -> str:
        """The lane of this version at a stage, e.g. ``scoring/credit-default@1#<digest>``.

        Only scoring has pools: the other stages need no device.
        """
        queue = f"{stage}.{self.pool}" if self.pool and stage is Stage.SCORING else str(stage)
        return f"{queue}/{self.name}@{self.version}#{self.digest}"


@dataclass(frozen=True, slots=True)
class Lane:
    """A lane's name, taken apart."""

    name: str
    stage: Stage
    queue: str
    model: ModelRef

    @property
    def label(self) -> str:
        """The lane for a person's eyes: without the digest's tail."""
        return f"{self.queue}/{self.model.name}@{self.model.version}"


@lru_cache(maxsize=1024)
def parse_lane(name: str) -> Lane:
    """Take a lane's name apart; ValueError if it is not one of ours."""
    found = _LANE.match(name)
    if not found:
        raise ValueError(f"{name!r} is not a lane: expected STAGE[.POOL]/MODEL@VERSION#DIGEST")
    stage = Stage(found["stage"])
    model = ModelRef(found["model"], found["version"], found["digest"], found["pool"] or "")
    return Lane(name, stage, name.split("/", 1)[0], model)
