"""Which fault is injected when, and into what: decided by the seed alone.

Processes that can fail independently form a group: each stage's pair of workers, the API, the sweepers. Each has a
loop of its own, beside the others. A fault that hits everything (the store, its bells, its disk, SIGTERM to all
services) is injected alone: how fast a worker recovers while the store is down says nothing about either. A refused
command is both: refused to one service beside other faults, and to all services alone.
"""

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager

from pipeline.contracts.stages import Stage

STAGES = tuple(str(stage) for stage in Stage)
EVERYTHING = "store"
"""The group of faults that hit everything: most of them by way of the store."""
GROUPS = (*STAGES, "api", "sweeper", EVERYTHING)

# Fault: how often in a round, how many seconds it takes about, and the groups that it can hit.
_ANY_PROCESS = (*STAGES, "api", "sweeper")
FAULTS: dict[str, tuple[int, float, tuple[str, ...]]] = {
    "kill-child": (8, 5, STAGES),
    "kill-worker": (8, 9, STAGES),
    "kill-api": (8, 8, ("api",)),
    "kill-sweeper": (8, 8, ("sweeper",)),
    "restart-store": (1, 16, ("store",)),
    "partition": (1, 24, _ANY_PROCESS),
    "slow-net": (1, 8, _ANY_PROCESS),
    "pause": (1, 9, STAGES),
    "drop-bells": (1, 5, ("store",)),
    "clock": (1, 10, ("preprocess", "postprocess")),  # see testbed.TURNABLE
    "poison": (1, 12, ("scoring",)),
    "hang": (1, 30, ("scoring",)),
    "oom": (1, 3, ("scoring",)),
    "nan": (1, 3, ("scoring",)),
    "cuda-sticky": (1, 12, ("scoring",)),
    "device-sick": (1, 14, ("scoring",)),
    "device-back": (1, 14, ("scoring",)),
    "fallback": (1, 30, ("scoring",)),
    "term": (1, 14, ("store",)),
    "store-full": (1, 10, ("store",)),
    "disk-full": (1, 15, ("store",)),
    "abort-script": (12, 3, GROUPS),
}
SPREAD = frozenset({"abort-script"})
"""Dealt evenly to all of their groups, however busy those are: each group runs scripts that no other runs."""

LONG_S = 12
"""Seconds: a fault that hits everything does not wait for one that takes as long: no other could start meanwhile."""


class Plan:
    """The faults of each group, one after the other, without end."""

    def __init__(self, names: Sequence[str], rng: random.Random) -> None:
        self._names = names
        self._rng = rng
        self._dealt: dict[str, deque[str]] = {group: deque() for group in GROUPS}
        self._load = dict.fromkeys(GROUPS, 0.0)
        self._spread: dict[str, deque[str]] = {}

    def of(self, group: str) -> Iterator[str]:
        """Yields the faults of one group; none if no chosen fault can hit it."""
        if any(group in FAULTS[name][2] for name in self._names):
            while True:
                while not self._dealt[group]:
                    self._deal()
                yield self._dealt[group].popleft()

    def _deal(self) -> None:
        """Deals one more round: first one of each fault, then the rest; each to the group with the least to do."""
        first = self._rng.sample(self._names, len(self._names))
        rest = [name for name in self._names for _ in range(FAULTS[name][0] - 1)]
        self._rng.shuffle(rest)
        for name in (*first, *rest):
            _, seconds, groups = FAULTS[name]
            group = self._next_of(name, groups) if name in SPREAD else self._least(groups)
            self._load[group] += seconds
            self._dealt[group].append(name)

    def _least(self, groups: Sequence[str]) -> str:
        least = min(self._load[group] for group in groups)
        return self._rng.choice([group for group in groups if self._load[group] == least])

    def _next_of(self, name: str, groups: Sequence[str]) -> str:
        if not self._spread.get(name):
            self._spread[name] = deque(self._rng.sample(groups, len(groups)))
        return self._spread[name].popleft()


class FaultLock:
    """Lets faults of single processes run side by side, and a fault that hits everything run alone."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._single = 0
        self._long = 0
        self._all = False

    @asynccontextmanager
    async def shared(self, fault: str) -> AsyncIterator[None]:
        """Holds the lock for a fault of one process; others may hold it too."""
        takes_long = FAULTS[fault][1] >= LONG_S
        async with self._changed:
            await self._changed.wait_for(lambda: not self._all)
            self._single += 1
            self._long += takes_long
        try:
            yield
        finally:
            async with self._changed:
                self._single -= 1
                self._long -= takes_long
                self._changed.notify_all()

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        """Holds the lock alone; new faults wait for its end, and it does not wait for a long one to start."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._all and not self._long)
            self._all = True
            await self._changed.wait_for(lambda: not self._single)
        try:
            yield
        finally:
            async with self._changed:
                self._all = False
                self._changed.notify_all()
