"""What the ledger's values look like, the same at every step of a request's life: a prefix and a payload.

The prefix is whose it is: its links and its header. Scripts read it, too, and put the payload of one request behind the
prefix of another that has joined it:

    1 byte    flags: 1 has joined a flight, 2 has an idempotency key, 4 has a cache key, 8 its answer may be given
              again, 16 was given the answer of another, 32 has a tenant (none has only what was accepted before
              there were tenants)
    16 bytes  the flight                            } each only
    32 bytes  the idempotency key and body digest   } if its flag
    16 bytes  the cache key                         } is
    8 bytes   the tenant                             } set
    2 bytes   length of what follows (big-endian)
    msgpack   the header's other fields

The payload is msgpack of ``[kind, progress, body]``: ``kind`` is ``accepted``, the stage that wrote the output, or the
state that ended the request; ``body`` is the features (or their values, see ``contracts.features``), the output of the
stage, or the end (see ``End``).
"""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any, NamedTuple

import msgpack

from pipeline.contracts.attempts import NO_ATTEMPTS, Attempt, Attempts
from pipeline.contracts.features import without_names
from pipeline.contracts.problems import InvalidRequest
from pipeline.contracts.stages import FINAL_STATES, State
from pipeline.contracts.status import Failure
from pipeline.contracts.tenants import TENANT_ID_BYTES
from pipeline.contracts.work import Header, Links, Progress
from pipeline.ledger.constants import (
    DIGEST_BYTES,
    HAS_CACHE_KEY,
    HAS_FLIGHT,
    HAS_KEY,
    HAS_TENANT,
    ID_BYTES,
    IS_REUSABLE,
)

ACCEPTED = "accepted"
NEW = Progress(0)
NO_LINKS = Links()
MAX_DEPTH = 32
_END_KINDS = frozenset(str(state) for state in FINAL_STATES)


# For each value of the flags: where the flight, the idempotency key, the cache key and the tenant end.
_ENDS_OF_LINKS = [
    tuple(
        accumulate(
            (
                1 + ID_BYTES * bool(flags & HAS_FLIGHT),
                2 * DIGEST_BYTES * bool(flags & HAS_KEY),
                DIGEST_BYTES * bool(flags & HAS_CACHE_KEY),
                TENANT_ID_BYTES * bool(flags & HAS_TENANT),
            )
        )
    )
    for flags in range(2 * HAS_TENANT)
]


_BYTES = [bytes((flags,)) for flags in range(2 * HAS_TENANT)]


class End(NamedTuple):
    """How a request ended. ``attempts``: starts in all, the last one included.

    ``finished_ms`` may lie before the request: its answer was there already.
    """

    finished_ms: float
    result: dict[str, Any] | None
    error: Failure | None
    attempts: int
    scored_by: str | None = None
    degraded: bool = False


class Entry(NamedTuple):
    """One stored value, unpacked."""

    kind: str
    header: Header
    progress: Progress
    body: Any
    prefix: bytes

    @property
    def links(self) -> Links:
        """What links the request to others."""
        return links_of(self.prefix)

    @property
    def ended(self) -> bool:
        """Whether this is the end of a request."""
        return self.kind in _END_KINDS


def _plain_number(value: Any) -> Any:
    """Msgpack has no integers beyond 64 bits: as a float it is out of every domain, and says so in validation."""
    if isinstance(value, int):
        try:
            return float(value)
        except OverflowError:
            return float("inf") if value > 0 else float("-inf")
    raise TypeError(f"{type(value).__name__} is not a JSON value")


def pack_entry(kind: str, prefix: bytes, progress: Progress, body: Any) -> bytes:
    """The stored form of a value."""
    packed: bytes = prefix + msgpack.packb((kind, progress, body))
    return packed


def pack_prefix(header: Header, links: Links = NO_LINKS, *, cached: bool = False) -> bytes:
    """The prefix of all values of one request. ``cached``: it was given the answer of another."""
    flags = bool(links.flight) | bool(links.key) << 1 | bool(links.cache_key) << 2 | bool(header.cache_s) << 3
    return b"".join((_BYTES[flags | cached << 4 | bool(links.tenant) << 5], *links, _pack_header(header)))


def for_itself_alone(prefix: bytes) -> bytes:
    """The prefix of a request whose answer may not be given again: a lesser model's is never cached as a good one."""
    return b"%c%b" % (prefix[0] & ~IS_REUSABLE, prefix[1:])


@lru_cache(maxsize=1024)
def _pack_header(header: Header) -> bytes:
    packed: bytes = msgpack.packb(header)
    return len(packed).to_bytes(2, "big") + packed


def pack_features(features: Mapping[str, Any], names: Sequence[str] = ()) -> bytes:
    """The payload of a request's record as accepted; InvalidRequest if the features are not JSON values.

    ``names``: of its model's features; whose these are is stored without them (see ``contracts.features``).
    """
    try:
        _check_json(features)
        packed: bytes = msgpack.packb((ACCEPTED, NEW, without_names(features, names)), default=_plain_number)
        return packed
    except (TypeError, ValueError, UnicodeError) as error:
        reason = f"cannot be stored: {error}"
        raise InvalidRequest(f"features {reason}", errors=[{"pointer": "/features", "message": reason}]) from error


MEMBER_PAYLOAD = msgpack.packb((ACCEPTED, NEW, None))
"""The payload of a record that has joined a flight: the input stands in the flight's own."""

_PLAIN = frozenset({str, int, float, bool, type(None)})
_NAMES = frozenset({str})


def _check_json(features: Mapping[str, Any]) -> None:
    """TypeError or ValueError for what some reader of the record could not follow."""
    if _NAMES.issuperset(map(type, features)) and _PLAIN.issuperset(map(type, features.values())):
        return  # nothing nested, as mostly
    level: list[Any] = [features]
    for _ in range(MAX_DEPTH + 1):  # the features themselves are the first level
        nested = []
        for outer in level:
            if isinstance(outer, Mapping):
                for name in outer:
                    if type(name) is not str:
                        raise TypeError(f"the name {name!r} is not text")
            for value in outer.values() if isinstance(outer, Mapping) else outer:
                if type(value) in _PLAIN:
                    continue
                if isinstance(value, Mapping | list | tuple):
                    nested.append(value)
                elif isinstance(value, bytes | bytearray | memoryview | msgpack.ExtType | msgpack.Timestamp):
                    raise TypeError(f"{type(value).__name__} is not a JSON value")
        if not nested:
            return
        level = nested
    raise ValueError(f"nested more than {MAX_DEPTH} levels deep")


def links_of(prefix: bytes) -> Links:
    """The links in a prefix."""
    flight, key, cache_key, tenant = _ENDS_OF_LINKS[prefix[0]]
    return Links(prefix[1:flight], prefix[flight:key], prefix[key:cache_key], prefix[cache_key:tenant])


def tenant_of(blob: bytes) -> bytes:
    """The tenant in a stored value's prefix; empty if it has none, or is no value."""
    if not HAS_TENANT <= (blob[0] if blob else 0) < 2 * HAS_TENANT:
        return b""
    tenant = blob[slice(*_ENDS_OF_LINKS[blob[0]][2:])]
    return tenant if len(tenant) == TENANT_ID_BYTES else b""


def header_of(prefix: bytes) -> Header:
    """The header in a prefix."""
    return _unpack_header(prefix[_ENDS_OF_LINKS[prefix[0]][-1] + 2 :])


def unpack_entry(blob: bytes) -> Entry:
    """A stored value, taken apart; ValueError or TypeError if it is none."""
    try:
        at = _ENDS_OF_LINKS[blob[0]][-1]
        payload = at + 2 + (blob[at] << 8 | blob[at + 1])
    except IndexError:
        raise ValueError("it does not begin with a prefix") from None
    kind, progress, body = msgpack.unpackb(blob[payload:], strict_map_key=False)
    return Entry(kind, _unpack_header(blob[at + 2 : payload]), Progress(*progress), body, blob[:payload])


@lru_cache(maxsize=1024)
def _unpack_header(packed: bytes) -> Header:
    return Header(*msgpack.unpackb(packed))


def pack_attempts(attempts: Attempts) -> bytes:
    """Attempts as JSON, which the scripts can read too."""
    document = {
        "starts": attempts.starts,
        "losses": attempts.losses,
        "suspect": attempts.suspect,
        "errors": [entry._asdict() for entry in attempts.errors],
    }
    return json.dumps(document).encode()


def unpack_attempts(blob: bytes | None) -> Attempts:
    """Attempts from their stored form; none if there is nothing."""
    if not blob:
        return NO_ATTEMPTS
    try:
        document = json.loads(blob)
        errors = tuple(
            Attempt(
                entry["n"], int(entry["at"]), entry["stage"], entry["error"], entry.get("signal"), entry["category"]
            )
            for entry in document["errors"] or ()
        )
        return Attempts(int(document["starts"]), int(document["losses"]), bool(document["suspect"]), errors)
    except (ValueError, TypeError, KeyError, AttributeError):
        return NO_ATTEMPTS  # what nobody understands must not stop a lane


def end_of(state: State, prefix: bytes, progress: Progress, end: End) -> bytes:
    """A request's record once it has ended."""
    return pack_entry(str(state), prefix, progress, end)
