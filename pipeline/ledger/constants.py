"""Constants of the ledger's scripts, whether Python code needs them as well or not: each is written once, here.

``INJECTED`` lists them by the names that they have in Lua, which are the same.
"""

import re
from collections.abc import Mapping

from pipeline.contracts.attempts import KEPT_ERRORS, SUSPECT_LOSSES
from pipeline.contracts.stages import FINAL_STATES, PRIORITY_STEP, Priority
from pipeline.contracts.tenants import TENANT_ID_BYTES
from pipeline.ledger.keys import SCRIPT_LIMIT

ID_BYTES = 16
ID_TIME_BYTES = 6
"""What of an id is its time: Unix milliseconds, big-endian."""
DIGEST_BYTES = 16
"""Of an idempotency key, of the body that it stands for, and of a cache key."""

HAS_FLIGHT, HAS_KEY, HAS_CACHE_KEY, IS_REUSABLE, WAS_CACHED, HAS_TENANT = (1 << bit for bit in range(6))
"""Flags of a value's prefix (see ``records``)."""

MAX_WAIT_SHARE = 0.8
"""Of a request's timeout that the estimated wait before it may take: estimates are wrong by about a fifth."""

CLOCK_TOLERANCE_MS = 20
"""The latest time that a script saw is written when it is so much behind."""
CLOCK_SLEW = 0.2
"""Of the time that passes, the share that the sweepers take back from a time added to the server's clock."""

WAKE_TTL_MS = 5000
IDLE_TTL_MS = 5000
"""Of a wake, and of the list of a queue's parked workers."""
AGAIN_TTL_MS = 60_000
"""Of a lane's latest retries, if a script was stopped before it could set the window of the retry budget."""
LEADER_TTL_MS = 1500
LEADER_FACTS_TTL_MS = 3000
"""Of what the leading sweeper publishes: shortage of memory, rates of lanes with a backlog."""
DEGRADED_TTL_MS = 10_000
LATE_MEMBER_AGAIN_MS = 1000
"""A member past its deadline whose flight scoring has claimed is checked again so much later."""
RECENT_RESULT_MS = 2000
"""A result can be found for so long in any case."""

POINTER_BYTES = 200
"""What a pointer to a result takes of the ledger's memory, about."""
CACHE_ENTRY_BYTES = 250
"""What an entry of a cache on a server of its own takes beside its value, about."""
ANNOUNCED_BYTES = 4096
"""Ends of more bytes than this are announced by their ids alone."""

LOWEST_PRIORITY = max(Priority)

INJECTED: dict[str, float | frozenset[str]] = {
    "SCRIPT_LIMIT": SCRIPT_LIMIT,
    "PRIORITY_STEP": PRIORITY_STEP,
    "LOWEST_PRIORITY": int(LOWEST_PRIORITY),
    "FINAL_STATES": frozenset(str(state) for state in FINAL_STATES),
    "KEPT_ERRORS": KEPT_ERRORS,
    "SUSPECT_LOSSES": SUSPECT_LOSSES,
    "ID_BYTES": ID_BYTES,
    "ID_TIME_BYTES": ID_TIME_BYTES,
    "DIGEST_BYTES": DIGEST_BYTES,
    "TENANT_ID_BYTES": TENANT_ID_BYTES,
    "HAS_FLIGHT": HAS_FLIGHT,
    "HAS_KEY": HAS_KEY,
    "HAS_CACHE_KEY": HAS_CACHE_KEY,
    "IS_REUSABLE": IS_REUSABLE,
    "WAS_CACHED": WAS_CACHED,
    "HAS_TENANT": HAS_TENANT,
    "MAX_WAIT_SHARE": MAX_WAIT_SHARE,
    "CLOCK_TOLERANCE_MS": CLOCK_TOLERANCE_MS,
    "CLOCK_SLEW": CLOCK_SLEW,
    "WAKE_TTL_MS": WAKE_TTL_MS,
    "IDLE_TTL_MS": IDLE_TTL_MS,
    "AGAIN_TTL_MS": AGAIN_TTL_MS,
    "LEADER_TTL_MS": LEADER_TTL_MS,
    "LEADER_FACTS_TTL_MS": LEADER_FACTS_TTL_MS,
    "DEGRADED_TTL_MS": DEGRADED_TTL_MS,
    "LATE_MEMBER_AGAIN_MS": LATE_MEMBER_AGAIN_MS,
    "RECENT_RESULT_MS": RECENT_RESULT_MS,
    "POINTER_BYTES": POINTER_BYTES,
    "CACHE_ENTRY_BYTES": CACHE_ENTRY_BYTES,
    "ANNOUNCED_BYTES": ANNOUNCED_BYTES,
}
"""Numbers and sets."""


def with_constants(text: str, *, texts: Mapping[str, str]) -> str:
    """Lua with its constants: numbers in place of their names, then sets and ``texts`` in a line each before the rest.

    A script runs from its first line with every call, and a local that functions use costs each of them time.
    """
    numbers = {name: value for name, value in INJECTED.items() if not isinstance(value, frozenset)}
    sets = {name: value for name, value in INJECTED.items() if isinstance(value, frozenset)}
    lines = [f"local {name} = [==[{value}]==]\n" for name, value in texts.items()]
    for name, members in sets.items():
        lines.append(f"local {name} = {{ {', '.join(f'{each} = true' for each in sorted(members))} }}\n")
    names = re.compile(rf"\b({'|'.join(numbers)})\b")
    return "".join(lines) + names.sub(lambda found: repr(numbers[found[0]]), text)
