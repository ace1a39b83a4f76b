"""Rights on the store: each service connects as a user of its own, which can be refused one command for a while.

A script that sends a refused command stops there, and what it has done before stays done. The proof itself keeps its
rights: it connects as the default user.
"""

import asyncio
import itertools
import random
from collections.abc import Iterable, Sequence
from pathlib import Path

import structlog
from redis.exceptions import RedisError

from chaos.schedule import GROUPS
from pipeline.ledger.rights import scripted
from pipeline.store.connection import AsyncClient

log = structlog.get_logger()
PASSWORD = "chaos"  # noqa: S105 - of a server on loopback that lives as long as the run
REFUSED_S = (0.2, 1.5)
"""Seconds that a command is refused: at least, at most. Shorter than a lease."""
AGAIN_S = 0.1
_OWN_LOG = "XADD"
"""Writes the log that the checker reads (see events.py): without it, claims could not be followed."""


def commands() -> list[str]:
    """Returns the commands that the ledger's scripts send, except for the proof's own log."""
    return sorted(scripted() - {_OWN_LOG})


def write_users(file: Path, names: Iterable[str]) -> None:
    """Writes the server's list of users, each with all rights; the server reads it at each start."""
    file.write_text("".join(f"user {name} on >{PASSWORD} ~* &* +@all\n" for name in names))


class Rights:
    """Takes rights and gives them back. The seed alone decides which, and for how long."""

    def __init__(self, store: AsyncClient, seed: int) -> None:
        self._store = store
        self._rngs = {group: random.Random(f"{seed}:{group}:rights") for group in GROUPS}
        every = commands()
        self._turns = {group: itertools.cycle(rng.sample(every, len(every))) for group, rng in self._rngs.items()}

    async def refuse(self, group: str, users: Sequence[str]) -> None:
        """Refuses the group's next command to these users for a while."""
        command, seconds = next(self._turns[group]), self._rngs[group].uniform(*REFUSED_S)
        log.info("refuse", command=command, to=" ".join(users), seconds=round(seconds, 2))
        try:
            for user in users:
                await self._store.execute_command("ACL", "SETUSER", user, f"-{command}")
            await asyncio.sleep(seconds)
        finally:
            await self._allow(users)

    async def _allow(self, users: Sequence[str]) -> None:
        while True:
            try:
                for user in users:
                    await self._store.execute_command("ACL", "SETUSER", user, "+@all")
            except (RedisError, OSError):
                await asyncio.sleep(AGAIN_S)
            else:
                return
