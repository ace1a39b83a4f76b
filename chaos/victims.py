"""What is struck: the processes of a stack, found anew each time, and how they are seen to serve again."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import aiohttp
import psutil
from redis.exceptions import RedisError

from chaos.ground import SWEEPERS, Ground
from pipeline.contracts.problems import Problem
from pipeline.ledger import keys
from pipeline.store.connection import AsyncClient

POLL_S = 0.02
GIVE_UP_S = 60.0


def now_ms() -> float:
    """The time as the server has it: it runs on this machine."""
    return time.time() * 1000


async def until(check: Callable[[], Awaitable[bool]], within_s: float = GIVE_UP_S) -> bool:
    """Ask until it is so; False if it is not in time."""
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


class Victims:
    """Finds processes by the names of their programs."""

    def __init__(self, ground: Ground, store: AsyncClient) -> None:
        self.ground = ground
        self.store = store

    async def pid(self, name: str) -> int:
        """The process of a program that has run for some seconds: killed sooner, its supervisor takes it for broken."""
        found = 0

        async def runs() -> bool:
            nonlocal found
            info = (await asyncio.to_thread(self.ground.stack.states)).get(name)
            found = info["pid"] if info and info["statename"] == "RUNNING" else 0
            return bool(found)

        if not await until(runs):
            raise TimeoutError(f"{name} does not run")
        return found

    async def worker(self, name: str, *, after: Worker | None = None) -> Worker:
        """A worker that runs and serves; with another child than the one it had, if ``after`` says which that was."""
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
        """The workers that beat: incarnation and description, which names the child that answers bells."""
        described = await self.store.hgetall(keys.WORKERS)
        beats = dict(await self.store.zrange(keys.BEATS, 0, -1, withscores=True))
        return [(name.decode(), json.loads(text)) for name, text in described.items() if beats.get(name, 0) > 0]

    async def leader(self) -> tuple[str, bytes]:
        """The sweeper that leads: its program's name, and the name it leads under, which its log tells."""
        found = "", b""

        async def leads() -> bool:
            nonlocal found
            leader = await self.store.get(keys.TAG + "leader")
            for name in SWEEPERS if leader else ():
                if leader in self.ground.stack.log(name).read_bytes():
                    found = name, leader
            return bool(found[0])

        if not await until(leads):
            raise TimeoutError("no sweeper leads")
        return found

    async def led_by_another(self, than: bytes) -> None:
        """Wait until a sweeper leads that is not this one."""

        async def led() -> bool:
            return await self.store.get(keys.TAG + "leader") not in (than, None)

        await until(led)

    async def api_is_ready(self) -> bool:
        """Whether the API answers, and says that it can take work."""
        timeout = aiohttp.ClientTimeout(3)
        async with (
            aiohttp.ClientSession(timeout=timeout) as http,
            http.get(f"{self.ground.stack.api_url}/readyz") as answer,
        ):
            return answer.status == 200
