"""All settings, read from ``SCORELINE_*`` environment variables in this module only.

Relations between settings are checked when they are read, so a process that starts has settings that fit together.
"""

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

PREFIX = "SCORELINE_"
Durability = Literal["process", "disk", "replica"]
LONGER = 2
"""How many times the usual a batch's time limits are in degraded mode: fewer, perhaps weaker workers have to cope."""
REPOSITORY = Path(__file__).resolve().parent.parent
SHIPPED_MODELS = Path(__file__).resolve().parent / "samples" / "models"

RENAMED = {
    "SCORELINE_STAY_S": "SCORELINE_LANE_SLICE_S",
    "SCORELINE_JOB_S": "SCORELINE_BELL_S",
    "SCORELINE_LINGER_S": "SCORELINE_PARK_S",
    "SCORELINE_KEY_RATE": "SCORELINE_TENANT_RATE",
    "SCORELINE_KEY_IN_FLIGHT": "SCORELINE_TENANT_IN_FLIGHT",
}
"""What settings were called before 0.2.0. A value that is never read is worse than a process that does not start."""


class SettingsError(ValueError):
    """A setting is unknown, malformed, or does not fit another one."""


class Settings(BaseSettings):
    """Times are in seconds unless the name says otherwise."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore")

    store_url: str = Field("redis://127.0.0.1:6379/0", description="Broker and ledger: one Redis or Valkey server.")
    cache_url: str | None = Field(
        None, description="A server for cached results; without it the ledger finds its own earlier results."
    )
    cache_max_bytes: int = Field(256 << 20, ge=0, description="About how many bytes reusable results may take.")
    model_store: Path = Field(SHIPPED_MODELS, description="Folder of model artifacts, MODEL/VERSION/.")
    chaos_model: bool = Field(False, description="Whether to serve the model that fails on demand.")
    failpoints: Path | None = Field(None, description="For tests only: a folder; see `pipeline/testing/failpoints.py`.")
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda:\d+)$",
        description="Where scoring runs: `cpu`, `cuda:N`, or `auto` for a GPU if there is one.",
    )
    torch_threads: int = Field(0, ge=0, description="CPU threads of a scoring child; 0: as many as it has cores.")
    child_memory_mb: int = Field(
        0, ge=0, description="Memory (MiB) beyond which a child is replaced after its bell; 0: no limit. 80 % warns."
    )
    durability: Durability = Field("process", description="What an acknowledged write survives.")

    result_ttl: float = Field(86_400, ge=1, description="How long the result of an ended request is kept.")
    idempotency_ttl: float = Field(86_400, ge=1, description="How long an idempotency key is kept after the end.")
    max_attempts: int = Field(3, ge=1, description="Failed attempts after which a request becomes a dead letter.")
    max_losses: int = Field(20, ge=1, description="Lost workers after which a request becomes a dead letter.")
    share_results: bool = Field(
        False, description="Whether tenants share computations and cached results: each learns what others have scored."
    )
    max_waiting: int = Field(2_000_000, ge=1, description="Unfinished requests beyond which new ones are refused.")
    tenant_rate: float = Field(0, ge=0, description="Requests per second that one API key may submit; 0: no limit.")
    tenant_in_flight: int = Field(0, ge=0, description="Unfinished requests that one API key may have; 0: no limit.")
    expected_scoring_workers: int = Field(
        0, ge=0, description="With fewer than half of them alive, low priority is refused; 0: they are not counted."
    )
    max_body_bytes: int = Field(1 << 20, ge=1024, description="Largest HTTP body.")
    max_rows: int = Field(1_000, ge=1, le=1_000, description="Largest HTTP batch.")
    max_waits: int = Field(10_000, ge=0, description="HTTP calls that may wait for results at once; more do not wait.")
    dead_max_age: float = Field(30 * 86_400, ge=1, description="How long a dead letter is kept.")
    dead_max_count: int = Field(10_000, ge=1, description="How many dead letters are kept; the oldest are dropped.")

    soft_limit_s: float = Field(60, gt=0, description="Time after which a batch is interrupted.")
    hard_limit_s: float = Field(90, gt=0, description="Time after which a batch is killed with its process.")
    start_limit_s: float = Field(300, gt=0, description="Time after which a child that is still starting is replaced.")
    visibility_timeout_s: float = Field(3_600, gt=0, description="Time after which the broker redelivers a bell.")
    heartbeat_s: float = Field(1.0, gt=0, description="Interval between a worker's heartbeats.")
    lease_ttl_s: float = Field(3.0, gt=0, description="Silence after which a worker's claims are released.")
    sweep_s: float = Field(0.25, gt=0, description="Interval between the sweeper's rounds.")
    lane_idle_s: float = Field(1.0, gt=0, description="Time without a claim after which a lane with work is rung.")
    lane_slice_s: float = Field(0.5, gt=0, description="How long a worker stays on one lane while others have work.")
    bell_s: float = Field(2.0, gt=0, description="How long one bell may occupy a worker, parking included.")
    park_s: float = Field(0.15, gt=0, le=4, description="How long a worker waits on an empty lane before it leaves.")
    backoff_base_s: float = Field(0.5, gt=0, description="Upper bound of the first retry's delay.")
    backoff_cap_s: float = Field(30, gt=0, description="Upper bound of every retry's delay.")
    store_timeout_s: float = Field(2.0, gt=0, description="Time limit of a call to the store.")

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
                # One bell may run two batches, their limits doubled in degraded mode.
                2 * LONGER * self.hard_limit_s + self.bell_s < self.visibility_timeout_s,
                f"{2 * LONGER} x HARD_LIMIT_S + BELL_S < VISIBILITY_TIMEOUT_S",
            ),
            (self.idempotency_ttl <= self.result_ttl, "IDEMPOTENCY_TTL <= RESULT_TTL"),
            (self.backoff_base_s <= self.backoff_cap_s, "BACKOFF_BASE_S <= BACKOFF_CAP_S"),
            (self.lane_slice_s <= self.bell_s < self.soft_limit_s, "LANE_SLICE_S <= BELL_S < SOFT_LIMIT_S"),
            (self.park_s <= self.bell_s, "PARK_S <= BELL_S"),
        ]
        broken = _broken(relations)
        if broken:
            raise ValueError(broken)
        return self

    def for_worker(self) -> Self:
        """Returns these settings if a worker can keep its lease with them; SettingsError if not.

        Only a worker's heartbeat depends on this relation. A producer may give its calls to the store more time.
        """
        # A heartbeat that gets no answer is given up after the timeout; the next one must not come too late.
        kept = self.heartbeat_s + self.store_timeout_s <= self.lease_ttl_s
        broken = _broken([(kept, "HEARTBEAT_S + STORE_TIMEOUT_S <= LEASE_TTL_S")])
        if broken:
            raise SettingsError(f"settings of a worker: {broken}")
        return self


def _broken(relations: Sequence[tuple[bool, str]]) -> str:
    """Names the relations that do not hold; empty if all do."""
    broken = [text for holds, text in relations if not holds]
    return "these must hold (each name with SCORELINE_ before it): " + "; ".join(broken) if broken else ""


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
    """Reads settings from the environment; SettingsError names what is wrong, and what a misspelt name may mean."""
    environment = os.environ if environment is None else environment
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    given: dict[str, Any] = {name: value for name, value in environment.items() if name.startswith(PREFIX)}
    for name in sorted(given.keys() - known):
        if name in RENAMED:
            raise SettingsError(f"{name} is called {RENAMED[name]} since Scoreline 0.2.0: set that instead")
        close = difflib.get_close_matches(name, known, n=1)
        raise SettingsError(f"unknown setting {name}" + (f": did you mean {close[0]}?" if close else ""))
    if "SCORELINE_RESULT_TTL" in given and "SCORELINE_IDEMPOTENCY_TTL" not in given:
        # Whoever shortens the life of results alone means the keys as well.
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
    """Returns this process's settings, read once."""
    return read_settings()
