"""The legend of keys. Every key of the ledger and of the broker begins with the partition tag ``{p00}:``.

================= ======= ============================ ========================================================
key               type    life                         what
================= ======= ============================ ========================================================
``r:ID``          string  until ended, + result_ttl    the request's record: as accepted, then as ended
``o:ID``          string  until ended                  the latest stage's output: input of the next one
``f:CACHE_KEY``   string  until ended, + cache_ttl_s   the flight that computes this: ID, ``:``, its own score;
                                                       ID alone once it has succeeded: its record has the answer
``kept:MS:N``     string  twice that life              how many such pointers of this life were made in period N
``m:ID``          zset    until ended                  members of a flight that has been joined; score: their own
``joined``        hash    while any is unfinished      ID of a flight that has been joined -> 0, or since when
                                                       nobody can leave it (ms): scoring claimed it, or it ended
``i:ID``          string  until ended                  its input, once its first member has left it
``e:ID``          string  until all have it            its outcome: the first member's record as ended
``fanout``        hash    until all have it            ID of such a flight -> state
``k:KEY``         string  until ended, + idempot._ttl  an idempotency key (16 bytes of SHA-256) -> ID, body digest
``a:TOKEN``     string  2 min                        what one accept answered: for clients that did not hear it; while
                                                       it has not answered, the time that its ids begin with
``open``          zset    while anything is unfinished ids without an end; score: deadline (ms), +inf once
                                                       scoring has claimed it. Leaving it *is* the one commit
``ending``        string  result_ttl                   a script was stopped before requests that it ended left
                                                       ``open``: records are read before they are replaced
``q:LANE``        zset    while work waits             waiting ids; score: priority, then deadline
``later``         zset    while retries wait           ``ID SCORE LANE FREE``; score: when due (ms); FREE: 'free' or
                                                       nothing, see ``requeue_due``
``attempts``      hash    while unfinished             ID -> JSON of ``Attempts``; only of those that failed
``c:INCARNATION`` hash    while claimed                FIELD -> ``LANE|MS|SCORES|IDS``: a field for a batch
``beats``         zset    while alive, + minutes       INCARNATION -> last heartbeat (ms); fenced: when, negative
``workers``       hash    as ``beats``                 INCARNATION -> JSON: stage, host, pid, device, models
``lanes``         zset    for ever (few)               LANE -> time of its last claim (ms)
``rung``          set     until answered               lanes with a bell in the queue
``idle:QUEUE``    list    while workers wait           ``INCARNATION FIELD LIMIT LANE`` of waiting workers
``wake:WAKE``     list    5 s, on this server alone    the lane that woke a worker, its batch (see ``ring``)
``bells``         string  for ever                     counts bells, for their ids
``clock``         string  for ever                     the latest time a script saw (ms): never goes back
``offset``        string  after a failover             ms that the server's clock is behind what was seen before
``counts``        hash    for ever                     totals: ``STAGE:claimed``, ``failed:STAGE:CATEGORY``,
                                                       ``runs:MODEL``, states
``settled``       hash    for ever                     LANE -> requests that its stage is done with: running total
``retried``       hash    for ever                     LANE -> retries that have gone back to it: running total
``work``          hash    for ever                     LANE -> ms that the latest batch took
``again:LANE``    zset    10 s                         its latest retries, for its budget; score: when they went (ms)
``rates``         hash    for ever                     STAGE -> settled per second, lately     } measured by the
``paces``         hash    for ever                     LANE -> the same while it was busy      } leading sweeper,
``medians``       hash    for ever                     LANE -> ms that its batches take        } see ``measuring``
``firsts``        hash    for ever                     LANE -> first attempts in ten seconds   }
``pace``          string  3 s, while there is one      lanes with a backlog: ``LANE RATE`` lines
``degraded``      string  10 s, while it is true       too few workers live: batches may take longer meanwhile
``owned``         hash    while any is unfinished      TENANT -> unfinished requests of a tenant, if it has any
``due``           hash    for ever (few)               TENANT -> when its next request is due at its rate (ms)
``leader``        string  1.5 s                        the sweeper that leads
``audit``         string  while the proof runs         what befalls batches and requests is logged in ``events``
``events``        stream  while the proof runs         ``what``, then for ``claimed``: incarnation, field,
                                                       lane, ids; ``settled``: incarnation, field;
                                                       ``released``: incarnation, field, charge;
                                                       ``registered``: incarnation, whose child is ready;
                                                       ``ended``: ID -> record, for each terminal commit
``confirm``       string  for ever                     written to wait for what was written before it
``memory_full``   string  3 s, while it is true        the store's memory is nearly used up: accept refuses
``memory_low``    string  3 s, while it is true        the same a little earlier: the cache takes nothing more
``releases``      hash    for ever                     MODEL -> JSON: current version, all versions
``epoch``         string  for ever                     raised when ``releases`` changes
``dead``          zset    bounded by count and age     ID -> when it died (ms)
``d:ID``          string  dead_max_age                 the dead letter, whole
``dm:ID``         zset    dead_max_age                 who died with it, if several: ids
``ended``         channel                              ids that ended, a message a settle; with ``:DB`` behind it in
                                                       databases other than 0
``QUEUE``         list                                 the broker's queue of bells (kombu's format and keys)
================= ======= ============================ ========================================================

ID is 16 bytes, TENANT 8 (a tenant's), INCARNATION 32 hex digits, LANE and QUEUE as in ``contracts.lanes``,
FIELD ``PID:NUMBER``, WAKE ``INCARNATION:FIELD``. The cache, which may live elsewhere, has its own legend in ``cache``.
"""

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
