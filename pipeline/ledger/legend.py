"""The legend of keys: what each is, how long it lives, and what writes it. ``docs/keys.md`` shows it as a table.

Every key of the ledger, of the cache and of the broker begins with the partition tag ``{p00}:``, which a script gets as
its only key. Tests compare what is stored with this legend after each of them (``chaos.legend_check``).

In names, ID is 16 bytes, TENANT 8, INCARNATION 32 hex digits, LANE and QUEUE as in ``contracts.lanes``, FIELD
``PID:NUMBER``, WAKE ``INCARNATION:FIELD``.
"""

from enum import StrEnum
from typing import NamedTuple


class Lasting(StrEnum):
    """Whether a key may be there without a TTL."""

    FOR_EVER = "for ever"
    WORK = "work"
    """While there is work to do; nothing has such a key when everything has ended."""
    THEN_EXPIRES = "then expires"
    """While its request is unfinished; then it has a TTL."""
    EXPIRES = "expires"
    """Never."""


class Key(NamedTuple):
    """One kind of key. ``owners``: the scripts, parts of the prelude and modules that write it (removing aside).

    ``name``: behind the tag; what is in capitals stands for a name. ``type``: as the server's TYPE says.
    """

    name: str
    type: str
    lasting: Lasting
    life: str
    owners: tuple[str, ...]
    what: str


_FOR_EVER, _WORK, _THEN, _EXPIRES = Lasting.FOR_EVER, Lasting.WORK, Lasting.THEN_EXPIRES, Lasting.EXPIRES
_METRICS = ("lane_metrics",)
_STOCK = ("kombu",)

LEGEND = (
    Key("r:ID", "string", _THEN, "until ended, then result_ttl", ("accept", "ends", "replay"),
        "the request's record: as accepted, then as ended"),
    Key("o:ID", "string", _WORK, "until ended", ("settle", "replay"),
        "a flight's latest stage output: the input of the next stage"),
    Key("f:CACHE_KEY", "string", _THEN, "until ended, then cache_ttl_s", ("accept", "ends"),
        "the flight that computes this: ID, `:`, its own score; ID alone once its record has the answer"),
    Key("kept:MS:N", "string", _EXPIRES, "twice MS", ("ends",),
        "how many such pointers with a TTL of MS were made in period N"),
    Key("m:ID", "zset", _WORK, "until ended", ("accept", "reopen", "replay"),
        "the members of a flight that has been joined; score: their own"),
    Key("joined", "hash", _WORK, "while any is unfinished",
        ("accept", "flights", "lanes", "settle", "reopen", "replay"),
        "ID of a flight that has been joined -> 0, or the time (ms) since which no member can leave it: "
        "scoring claimed it, or it ended"),
    Key("i:ID", "string", _WORK, "until ended", ("end_early", "reopen", "replay"),
        "a joined flight's input, once its first member has left it"),
    Key("e:ID", "string", _WORK, "until all members have it", ("settle",),
        "a joined flight's outcome: the first member's record as ended"),
    Key("fanout", "hash", _WORK, "until all members have it", ("settle",),
        "ID of such a flight -> its state, and for how long its result may be given again (ms)"),
    Key("k:KEY", "string", _THEN, "until ended, then idempotency_ttl", ("accept", "ends", "replay"),
        "an idempotency key (16 bytes of SHA-256) -> ID, body digest"),
    Key("a:TOKEN", "string", _EXPIRES, "2 min", ("accept",),
        "the answers of one accept, for a client that did not get them; until then, the time that its ids begin with"),
    Key("open", "zset", _WORK, "while any is unfinished",
        ("accept", "end_early", "flights", "lanes", "reopen", "replay"),
        "ids without an end; score: deadline (ms), +inf once scoring has claimed it. Leaving it *is* the one commit"),
    Key("ending", "string", _EXPIRES, "result_ttl", ("ends",),
        "a script was stopped before requests that it ended left `open`: records are read before they are replaced"),
    Key("q:LANE", "zset", _WORK, "while work waits",
        ("accept", "flights", "settle", "release", "requeue_due", "reopen", "replay"),
        "waiting ids; score: priority, then deadline"),
    Key("later", "zset", _WORK, "while retries wait", ("settle", "requeue_due"),
        "`ID SCORE LANE FREE`; score: when due (ms); FREE: 'free' or nothing, see `requeue_due`"),
    Key("attempts", "hash", _WORK, "while unfinished", ("settle", "release"),
        "ID -> JSON of `Attempts`; only of those that failed"),
    Key("c:INCARNATION", "hash", _WORK, "while claimed", ("lanes",),
        "FIELD -> `LANE|MS|SCORES|IDS`: a field for a batch"),
    Key("beats", "zset", _FOR_EVER, "while alive, and some minutes", ("heartbeat", "fence", "release"),
        "INCARNATION -> last heartbeat (ms); fenced: when, negative"),
    Key("workers", "hash", _FOR_EVER, "as `beats`", ("heartbeat",),
        "INCARNATION -> JSON: stage, host, pid, device, models"),
    Key("lanes", "zset", _FOR_EVER, "for ever (few)",
        ("accept", "lanes", "settle", "release", "reopen", "replay", "scrub"),
        "LANE -> time of its last claim (ms)"),
    Key("rung", "set", _FOR_EVER, "until answered", ("lanes",), "lanes with a bell in the queue"),
    Key("idle:QUEUE", "list", _EXPIRES, "5 s", ("lanes",), "`INCARNATION FIELD LIMIT LANE` of parked workers"),
    Key("wake:WAKE", "list", _EXPIRES, "5 s, on this server alone", ("lanes",),
        "the lane that woke a worker, and its batch (see `ring`)"),
    Key("bells", "string", _FOR_EVER, "for ever", ("lanes",), "counts bells, for their ids"),
    Key("clock", "string", _FOR_EVER, "for ever", ("base",),
        "the latest time that a script saw (ms): never goes back"),
    Key("offset", "string", _FOR_EVER, "after a failover", ("base", "elect"),
        "ms that the server's clock is behind what was seen before"),
    Key("counts", "hash", _FOR_EVER, "for ever", ("base",),
        "totals: `STAGE:claimed`, `failed:STAGE:CATEGORY`, `runs:MODEL`, states"),
    Key("settled", "hash", _FOR_EVER, "for ever", ("settle",),
        "LANE -> requests that its stage is done with: running total"),
    Key("retried", "hash", _FOR_EVER, "for ever", ("requeue_due",),
        "LANE -> retries that have gone back to it: running total"),
    Key("work", "hash", _FOR_EVER, "for ever", ("settle",), "LANE -> ms that the latest batch took"),
    Key("again:LANE", "zset", _EXPIRES, "10 s", ("requeue_due",),
        "its latest retries, for its budget; score: when they went (ms)"),
    Key("rates", "hash", _FOR_EVER, "for ever", _METRICS, "STAGE -> settled per second, recently"),
    Key("paces", "hash", _FOR_EVER, "for ever", _METRICS, "LANE -> the same while it was busy"),
    Key("medians", "hash", _FOR_EVER, "for ever", _METRICS, "LANE -> ms that its batches take"),
    Key("firsts", "hash", _FOR_EVER, "for ever", _METRICS, "LANE -> first attempts in ten seconds"),
    Key("pace", "string", _EXPIRES, "3 s, while there is one", ("elect",), "lanes with a backlog: `LANE RATE` lines"),
    Key("degraded", "string", _EXPIRES, "10 s, while it is true", ("elect",),
        "too few workers live: batches may take longer meanwhile"),
    Key("owned", "hash", _FOR_EVER, "while any is unfinished", ("ends",),
        "TENANT -> unfinished requests of a tenant, if it has any"),
    Key("due", "hash", _FOR_EVER, "for ever (few)", ("admission",),
        "TENANT -> when its next request is due at its rate (ms)"),
    Key("leader", "string", _EXPIRES, "1.5 s", ("elect",), "the sweeper that leads"),
    Key("audit", "string", _FOR_EVER, "while the proof runs", ("chaos.run",),
        "what happens to batches and requests is logged in `events`"),
    Key("events", "stream", _FOR_EVER, "while the proof runs", ("base",),
        "`what`, then for `claimed`: incarnation, field, lane, ids; `settled`: incarnation, field; `released`: "
        "incarnation, field, charge; `registered`: incarnation, whose child is ready; `ended`: ID -> record, for each "
        "terminal commit"),
    Key("confirm", "string", _FOR_EVER, "for ever", ("replay", "rights", "producers.accept"),
        "written to wait for what was written before it, and to try a right"),
    Key("memory_full", "string", _EXPIRES, "3 s, while it is true", ("elect",),
        "the store's memory is nearly used up: accept refuses"),
    Key("memory_low", "string", _EXPIRES, "3 s, while it is true", ("elect",),
        "the same a little earlier: the cache takes nothing more"),
    Key("releases", "hash", _FOR_EVER, "for ever", ("releases",), "MODEL -> JSON: current version, all versions"),
    Key("epoch", "string", _FOR_EVER, "for ever", ("releases",), "raised when `releases` changes"),
    Key("dead", "zset", _FOR_EVER, "bounded by count and age", ("settle",), "ID -> when it died (ms)"),
    Key("d:ID", "string", _EXPIRES, "dead_max_age", ("settle",), "the dead letter, whole"),
    Key("dm:ID", "zset", _EXPIRES, "dead_max_age", ("fan_out",), "the ids that died with it, if several"),
    Key("x:CACHE_KEY", "string", _EXPIRES, "the model's TTL", ("cache_fill",),
        "msgpack of `Hit`: a result, as one computation ended; on the cache's server, like the next two"),
    Key("xi", "zset", _FOR_EVER, "for ever", ("cache_fill",), "CACHE_KEY -> when it expires (ms)"),
    Key("xs", "hash", _FOR_EVER, "for ever", ("cache_fill",),
        "CACHE_KEY -> bytes that the entry takes, about; '' -> that all of them take"),
    Key("preprocess", "list", _FOR_EVER, "while bells wait", ("lanes", *_STOCK), "the queue of a stage's bells"),
    Key("scoring", "list", _FOR_EVER, "while bells wait", ("lanes", *_STOCK), "the same"),
    Key("scoring.POOL", "list", _FOR_EVER, "while bells wait", ("lanes", *_STOCK), "the same, of a pool of workers"),
    Key("postprocess", "list", _FOR_EVER, "while bells wait", ("lanes", *_STOCK), "the same"),
    Key("unacked", "hash", _FOR_EVER, "until answered", _STOCK, "bells that workers are answering"),
    Key("unacked_index", "zset", _FOR_EVER, "until answered", _STOCK, "since when"),
    Key("unacked_mutex", "string", _EXPIRES, "5 min", _STOCK, "the worker that gives back what nobody has answered"),
    Key("_kombu.binding.EXCHANGE", "set", _FOR_EVER, "for ever (few)", _STOCK, "the queues of an exchange"),
    Key("_kombu.binding_permanent.EXCHANGE", "set", _FOR_EVER, "for ever (few)", _STOCK, "those that stay"),
    Key("_kombu.binding_deadlines", "zset", _FOR_EVER, "for ever (few)", _STOCK, "until when others stay"),
    Key("REPLY.reply.celery.pidbox", "list", _FOR_EVER, "until read", _STOCK, "answers to remote control"),
)  # fmt: skip
"""Every kind of key. Beside them is the channel ``ended`` (``ended:DB`` in databases other than 0), on which ``ends``
announces ids that ended, a message a settle."""


def table() -> str:
    """The legend as a Markdown table."""
    head = ["| key | type | life | written by | what |", "| --- | --- | --- | --- | --- |"]
    rows = ([f"`{key.name}`", key.type, key.life, ", ".join(key.owners), key.what] for key in LEGEND)
    return "\n".join([*head, *("| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows)])
