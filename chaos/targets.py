"""The processes that faults hit: found again each time, and watched until they serve again."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import aiohttp
import psutil
from redis.exceptions import RedisError

from chaos.testbed import SWEEPERS, Testbed
from pipeline.contracts.problems import Problem
from pipeline.ledger import keys
from pipeline.store.connection import AsyncClient

POLL_S = 0.02
GIVE_UP_S = 60.0


def now_ms() -> float:
    """Returns the store's time (ms): it runs on this machine."""
    return time.time() * 1000


async def until(check: Callable[[], Awaitable[bool]], within_s: float = GIVE_UP_S) -> bool:
    """Polls until ``check`` holds; returns False if it does not in time."""
    ends_at = time.monotonic() + within_s
    while time.monotonic() < ends_at:
        try:
            if await check():
                return True
        except (RedisError, OSError, aiohttp.ClientError, TimeoutError, Problem, psutil.Error):
            pass  # not yet
        await asyncio.sleep(POLL_S)
    return False


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker service as it runs now."""

    name: str
    parent: psutil.Process
    child: psutil.Process
    incarnation: str

    @property
    def processes(self) -> list[psutil.Process]:
        """Its parent, then its child."""
        return [self.parent, self.child]


class Targets:
    """Finds processes by the names of their programs."""

    def __init__(self, testbed: Testbed, store: AsyncClient) -> None:
        self.testbed = testbed
        self.store = store

    async def pid(self, name: str) -> int:
        """Waits until a program runs for good; returns its pid. Killed sooner, it counts as one that cannot start."""
        found = 0

        async def runs() -> bool:
            nonlocal found
            info = (await asyncio.to_thread(self.testbed.stack.states)).get(name)
            found = info["pid"] if info and info["statename"] == "RUNNING" else 0
            return bool(found)

        if not await until(runs):
            raise TimeoutError(f"{name} does not run")
        return found

    async def worker(self, name: str, *, after: Worker | None = None) -> Worker:
        """Waits until a worker serves, with another child than ``after`` had if that is given; returns it."""
        found: Worker | None = None

        async def serves() -> bool:
            nonlocal found
            parent = psutil.Process(await self.pid(name))
            for incarnation, described in await self._registered():
                if described["pid"] == parent.pid and psutil.pid_exists(described["child"]):
                    found = Worker(name, parent, psutil.Process(described["child"]), incarnation)
                    another = after is None or found.child.pid != after.child.pid
                    return another and found.child.status() != psutil.STATUS_ZOMBIE
            return False

        if not await until(serves) or found is None:
            raise TimeoutError(f"{name} does not serve")
        return found

    async def _registered(self) -> list[tuple[str, dict[str, int]]]:
        """Returns incarnation and description of each live worker; the latter names the child that answers bells."""
        described = await self.store.hgetall(keys.WORKERS)
        beats = dict(await self.store.zrange(keys.BEATS, 0, -1, withscores=True))
        return [(name.decode(), json.loads(text)) for name, text in described.items() if beats.get(name, 0) > 0]

    async def leader(self) -> tuple[str, bytes]:
        """Waits for a leading sweeper; returns its program's name, and the name it leads under, as its log has it."""
        found = "", b""

        async def leads() -> bool:
            nonlocal found
            leader = await self.store.get(keys.TAG + "leader")
            for name in SWEEPERS if leader else ():
                if leader in self.testbed.stack.log(name).read_bytes():
                    found = name, leader
            return bool(found[0])

        if not await until(leads):
            raise TimeoutError("no sweeper leads")
        return found

    async def led_by_another(self, than: bytes) -> None:
        """Waits until another sweeper leads."""

        async def led() -> bool:
            return await self.store.get(keys.TAG + "leader") not in (than, None)

        await until(led)

    async def api_is_ready(self) -> bool:
        """Returns whether the API answers and is ready."""
        timeout = aiohttp.ClientTimeout(3)
        async with (
            aiohttp.ClientSession(timeout=timeout) as http,
            http.get(f"{self.testbed.stack.api_url}/readyz") as answer,
        ):
            return answer.status == 200
