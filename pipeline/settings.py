"""All settings, read from ``SCORELINE_*`` environment variables in this module only.

Relations between settings are checked when they are read, so a process that starts has settings that fit together.
"""

import difflib
import os
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

PREFIX = "SCORELINE_"
Durability = Literal["process", "disk", "replica"]
LONGER = 2
"""Batches' time limits in degraded mode, times the usual: fewer and perhaps weaker workers have to cope."""
REPOSITORY = Path(__file__).resolve().parent.parent
SHIPPED_MODELS = Path(__file__).resolve().parent / "samples" / "models"


RENAMED = {
    "SCORELINE_STAY_S": "SCORELINE_LANE_SLICE_S",
    "SCORELINE_JOB_S": "SCORELINE_BELL_S",
    "SCORELINE_LINGER_S": "SCORELINE_PARK_S",
    "SCORELINE_KEY_RATE": "SCORELINE_TENANT_RATE",
    "SCORELINE_KEY_IN_FLIGHT": "SCORELINE_TENANT_IN_FLIGHT",
}
"""What settings were called before 0.2.0. A value that nobody reads is worse than a process that does not start."""


class SettingsError(ValueError):
    """A setting is unknown, malformed, or does not fit another one."""


class Settings(BaseSettings):
    """Times are in seconds unless the name says otherwise."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore")

    store_url: str = Field("redis://127.0.0.1:6379/0", description="Broker and ledger: one Redis or Valkey server.")
    cache_url: str | None = Field(
        None, description="A cache's own server; without it the store finds its own results again."
    )
    cache_max_bytes: int = Field(256 << 20, ge=0, description="What results that may be given again may take, about.")
    model_store: Path = Field(SHIPPED_MODELS, description="Folder of model artifacts, MODEL/VERSION/.")
    chaos_model: bool = Field(False, description="Whether the model that fails on demand exists.")
    failpoints: Path | None = Field(None, description="For tests only: a folder; see `pipeline/testing/failpoints.py`.")
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda:\d+)$",
        description="Where scoring runs: `cpu`, `cuda:N`, or whatever is found.",
    )
    torch_threads: int = Field(0, ge=0, description="Threads of a scoring child's CPU kernels; 0: its cores.")
    child_memory_mb: int = Field(
        0, ge=0, description="A child that has used more is replaced after its batch, and warned of at 80 %; 0: never."
    )
    durability: Durability = Field("process", description="What an acknowledged write survives.")

    result_ttl: float = Field(86_400, ge=1, description="How long an ended request can be read.")
    idempotency_ttl: float = Field(86_400, ge=1, description="How long an idempotency key is kept after the end.")
    max_attempts: int = Field(3, ge=1, description="Starts that may fail before a request is dead-lettered.")
    max_losses: int = Field(20, ge=1, description="Times a request's worker may vanish before it is dead-lettered.")
    share_results: bool = Field(
        False, description="Whether API keys share flights and cached answers: each learns what others have scored."
    )
    max_waiting: int = Field(2_000_000, ge=1, description="Unfinished requests beyond which new ones are refused.")
    tenant_rate: float = Field(0, ge=0, description="Requests per second that one API key may send; 0: any number.")
    tenant_in_flight: int = Field(0, ge=0, description="Unfinished requests that one API key may have; 0: any number.")
    expected_scoring_workers: int = Field(
        0, ge=0, description="With fewer than half of them alive, low priority is refused; 0: nobody counts."
    )
    max_body_bytes: int = Field(1 << 20, ge=1024, description="Largest HTTP body.")
    max_rows: int = Field(1_000, ge=1, le=1_000, description="Largest HTTP batch.")
    max_waits: int = Field(10_000, ge=0, description="HTTP calls that may wait at once; others are answered at once.")
    dead_max_age: float = Field(30 * 86_400, ge=1, description="How long a dead letter is kept.")
    dead_max_count: int = Field(10_000, ge=1, description="How many dead letters are kept; the oldest go first.")

    soft_limit_s: float = Field(60, gt=0, description="A batch that runs longer is interrupted.")
    hard_limit_s: float = Field(90, gt=0, description="A batch that runs longer is killed with its process.")
    start_limit_s: float = Field(300, gt=0, description="A child that has not loaded its stage by then is replaced.")
    visibility_timeout_s: float = Field(3_600, gt=0, description="When the broker gives an unanswered bell back.")
    heartbeat_s: float = Field(1.0, gt=0, description="How often a worker says that it lives.")
    lease_ttl_s: float = Field(3.0, gt=0, description="Silence after which a worker's claims are released.")
    sweep_s: float = Field(0.25, gt=0, description="How often the sweeper looks.")
    lane_idle_s: float = Field(1.0, gt=0, description="A lane with waiting work and no claim for so long is rung.")
    lane_slice_s: float = Field(0.5, gt=0, description="How long a worker stays on a lane before it lets others in.")
    bell_s: float = Field(2.0, gt=0, description="How long one bell may keep a worker, parking included.")
    park_s: float = Field(0.15, gt=0, le=4, description="How long a worker waits on an empty lane before it leaves.")
    backoff_base_s: float = Field(0.5, gt=0, description="Upper bound of the first retry's delay.")
    backoff_cap_s: float = Field(30, gt=0, description="Upper bound of every retry's delay.")
    store_timeout_s: float = Field(2.0, gt=0, description="How long a call to the store may take.")

    api_keys: Annotated[frozenset[str], NoDecode] = Field(frozenset(), description="SHA-256 digests of API keys.")
    operator_keys: Annotated[frozenset[str], NoDecode] = Field(
        frozenset(), description="SHA-256 digests of operators' keys."
    )

    @field_validator("store_url", "cache_url")
    @classmethod
    def _url(cls, url: str | None) -> str | None:
        reason = url and _unusable(url)
        if reason:
            raise ValueError(f"{_without_password(url or '')!r} {reason}")
        return url

    @field_validator("api_keys", "operator_keys", mode="before")
    @classmethod
    def _digests(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        digests = {part.strip().lower() for part in value.split(",") if part.strip()}
        for digest in digests:
            if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
                raise ValueError("expected comma-separated SHA-256 digests of 64 hex digits each, not the keys")
        return frozenset(digests)

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        relations = [
            (3 * self.heartbeat_s <= self.lease_ttl_s, "3 x HEARTBEAT_S <= LEASE_TTL_S"),
            (self.soft_limit_s < self.hard_limit_s, "SOFT_LIMIT_S < HARD_LIMIT_S"),
            (
                # Two batches in one job, their limits doubled in degraded mode.
                2 * LONGER * self.hard_limit_s + self.bell_s < self.visibility_timeout_s,
                f"{2 * LONGER} x HARD_LIMIT_S + BELL_S < VISIBILITY_TIMEOUT_S",
            ),
            (self.idempotency_ttl <= self.result_ttl, "IDEMPOTENCY_TTL <= RESULT_TTL"),
            (self.backoff_base_s <= self.backoff_cap_s, "BACKOFF_BASE_S <= BACKOFF_CAP_S"),
            (self.lane_slice_s <= self.bell_s < self.soft_limit_s, "LANE_SLICE_S <= BELL_S < SOFT_LIMIT_S"),
        ]
        broken = [text for holds, text in relations if not holds]
        if broken:
            raise ValueError("these must hold (each name with SCORELINE_ before it): " + "; ".join(broken))
        return self


def _unusable(url: str) -> str | None:
    """Returns what is wrong with a store's URL, if anything is."""
    parts = urlsplit(url)
    if "://" not in url:
        return f"has no scheme: did you mean redis://{_without_password(url).partition('/')[0]}/0?"
    if parts.scheme not in ("redis", "rediss"):
        return "is neither redis:// nor rediss://"
    try:
        _ = parts.port
    except ValueError:
        return "cannot be used: the port is not a number from 0 to 65535"
    if not parts.hostname:
        return "names no host"
    if not re.fullmatch(r"/?[0-9]*", parts.path):
        return "cannot be used: the database is not a number"
    return None


def _without_password(url: str) -> str:
    scheme, separator, rest = url.rpartition("://")
    credentials, at, address = rest.rpartition("@")
    return scheme + separator + ("***" if credentials else "") + at + address


def read_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """Settings from the environment; SettingsError names what is wrong and, for a misspelt name, the likely one."""
    environment = os.environ if environment is None else environment
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    given: dict[str, Any] = {name: value for name, value in environment.items() if name.startswith(PREFIX)}
    for name in sorted(given.keys() - known):
        if name in RENAMED:
            raise SettingsError(f"{name} is called {RENAMED[name]} since Scoreline 0.2.0: set that instead")
        close = difflib.get_close_matches(name, known, n=1)
        raise SettingsError(f"unknown setting {name}" + (f": did you mean {close[0]}?" if close else ""))
    if "SCORELINE_RESULT_TTL" in given and "SCORELINE_IDEMPOTENCY_TTL" not in given:
        # A shorter life for results alone is a sensible wish: the keys follow.
        given["SCORELINE_IDEMPOTENCY_TTL"] = given["SCORELINE_RESULT_TTL"]
    try:
        return Settings(**{name.removeprefix(PREFIX).lower(): value for name, value in given.items()})
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            name = PREFIX + str(problem["loc"][0]).upper() if problem["loc"] else "settings"
            lines.append(f"{name}: {problem['msg'].removeprefix('Value error, ')}")
        raise SettingsError("; ".join(lines)) from error


@cache
def settings() -> Settings:
    """This process's settings, read once."""
    return read_settings()
