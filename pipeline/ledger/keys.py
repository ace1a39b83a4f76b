"""Names of the keys of the ledger: what each is stands in the legend (``pipeline.ledger.legend``)."""

from typing import Any

TAG = "{p00}:"

OPEN = TAG + "open"
FANOUT = TAG + "fanout"
JOINED = TAG + "joined"
LATER = TAG + "later"
ATTEMPTS = TAG + "attempts"
BEATS = TAG + "beats"
WORKERS = TAG + "workers"
LANES = TAG + "lanes"
COUNTS = TAG + "counts"
SETTLED = TAG + "settled"
RETRIED = TAG + "retried"
WORK = TAG + "work"
RATES = TAG + "rates"
PACES = TAG + "paces"
MEDIANS = TAG + "medians"
FIRSTS = TAG + "firsts"
DEGRADED = TAG + "degraded"
OFFSET = TAG + "offset"
RELEASES = TAG + "releases"
EPOCH = TAG + "epoch"
DEAD = TAG + "dead"
ENDED = TAG + "ended"
"""The channel of ends of database 0; see ``ended_channel``."""
AUDIT = TAG + "audit"
EVENTS = TAG + "events"

_RECORD = (TAG + "r:").encode()
_OUTPUT = (TAG + "o:").encode()
_LETTER = (TAG + "d:").encode()
_LETTER_MEMBERS = (TAG + "dm:").encode()
_INPUT = (TAG + "i:").encode()
CONFIRM = TAG + "confirm"
_CACHED = (TAG + "x:").encode()

SCRIPT_LIMIT = 128
"""No script touches more requests than this: it bounds how long the server is busy with one call."""


def ended_channel(client: Any) -> str:
    """The channel on which a client's database announces its ends: the server's channels are of all databases."""
    database = client.connection_pool.connection_kwargs.get("db") or 0
    return f"{ENDED}:{database}" if database else ENDED


def record(request_id: bytes) -> bytes:
    """Key of a request's record."""
    return _RECORD + request_id


def output(request_id: bytes) -> bytes:
    """Key of a request's latest stage output."""
    return _OUTPUT + request_id


def letter(request_id: bytes) -> bytes:
    """Key of a dead letter."""
    return _LETTER + request_id


def letter_members(request_id: bytes) -> bytes:
    """Key of the requests that died with a dead letter, if they were several."""
    return _LETTER_MEMBERS + request_id


def flight_input(flight: bytes) -> bytes:
    """Key of the copy of a flight's input, if its first member has left it."""
    return _INPUT + flight


def cached(cache_key: bytes) -> bytes:
    """Key of a result in the cache, wherever that is."""
    return _CACHED + cache_key


def waiting(lane: str) -> str:
    """Key of a lane's waiting set."""
    return TAG + "q:" + lane


def claims(incarnation: str) -> str:
    """Key of an incarnation's claims."""
    return TAG + "c:" + incarnation


def idle(queue: str) -> str:
    """Key of a queue's parked workers."""
    return TAG + "idle:" + queue


def wake(incarnation: str, field: str) -> str:
    """Key on which a parked worker is woken, with a batch under this field if there is one."""
    return f"{TAG}wake:{incarnation}:{field}"
