"""What workers begin and the sweeper finishes: releasing claims, and giving an outcome to a flight's members."""

from pipeline.contracts.attempts import Charge
from pipeline.contracts.ids import to_text
from pipeline.contracts.lanes import parse_lane
from pipeline.ledger import keys
from pipeline.ledger.scripts import Scripts
from pipeline.settings import Settings
from pipeline.store.connection import Client

FAN_OUT_CALLS = 16
"""So many scripts run for one flight's members before other work gets its turn."""


def fan_out(scripts: Scripts, settings: Settings, flight: bytes) -> int:
    """Gives the outcome of a flight to its members; returns how many got it. The sweeper does what is left."""
    lives = (
        round(settings.result_ttl * 1000),
        round(settings.idempotency_ttl * 1000),
        round(settings.dead_max_age * 1000),
    )
    ended = 0
    for _ in range(FAN_OUT_CALLS):
        now_ended, left = scripts.fan_out(args=[*lives, flight, settings.cache_max_bytes])
        ended += now_ended
        if not left:
            break
    return ended


def release_claims(
    scripts: Scripts,
    incarnation: str,
    *,
    charge: Charge,
    pid: int | None = None,
    reason: str = "",
    signal: str = "",
    older_ms: int = 0,
    fence: bool = False,
    category: str = "crash",
    running: str = "",
    queue: str = "",
) -> int:
    """Gives a worker's claimed batches back to their lanes; returns how many requests.

    ``charge``: what it costs each of them (see ``contracts.attempts``), with ``reason``, ``signal`` and ``category``.
    ``running``: charges the batch of this field alone; '' charges all. ``pid``: releases the claims of that child only.
    ``older_ms``: releases only batches that were claimed so long ago. ``fence``: the incarnation is dead for ever.
    ``queue``: takes the worker off the list of that queue's parked workers as well.
    """
    prefix = "" if pid is None else f"{pid}:"
    flag = "1" if fence else "0"
    arguments = [incarnation, prefix, charge, reason, signal, older_ms, flag, category, running, queue]
    released, more = 0, True
    while more:
        now_released, more = scripts.release(args=arguments)
        released += now_released
    return released


def claimed_batch(client: Client, incarnation: str, field: str) -> tuple[str, list[str]]:
    """Which batch a worker holds under this field: its lane's label and its requests' ids; for the log."""
    claim = client.hget(keys.claims(incarnation), field) or b""
    try:
        lane, *_, ids = claim.split(b"|", 3)
        label = parse_lane(lane.decode()).label
    except ValueError:
        return "", []  # there is none, or nobody can read it
    return label, [to_text(ids[at : at + 16]) for at in range(0, len(ids), 16)]
