"""The faults. Each strikes once, and returns how long it took until all it has struck was under way again."""

import asyncio
import json
import os
import random
import signal
import time
from collections.abc import Mapping
from typing import Any

import aiohttp
import psutil

from pipeline.contracts.stages import Stage
from pipeline.ledger import keys
from pipeline.ledger.connection import connect_async
from pipeline.stack.local import LocalStack

POLL_S = 0.02
GIVE_UP_S = 60.0
Claimed = dict[bytes, tuple[bytes, bytes]]
"""Flight -> the claim it is in: (key of the incarnation's claims, field)."""


class Victims:
    """What faults are done to: the processes of one stack, and its store."""

    def __init__(self, stack: LocalStack, rng: random.Random) -> None:
        self._stack = stack
        self._rng = rng
        self.store = connect_async(stack.settings)
        self.poison: asyncio.Queue[Mapping[str, Any]] = asyncio.Queue()
        self._poisoned = 0

    def _pids(self, *names: str) -> list[int]:
        pids = self._stack.ready_document()["pids"]
        return [pid for name, found in pids.items() if name.startswith(names) for pid in found]

    async def _claims(self) -> Claimed:
        """Everything that is claimed at this moment."""
        claimed: Claimed = {}
        for incarnation in await self.store.zrange(keys.BEATS, 0, -1):
            key = keys.claims(incarnation.decode()).encode()
            for field, claim in (await self.store.hgetall(key)).items():
                ids = claim.split(b"|", 3)[3]
                claimed |= {ids[at : at + 16]: (key, field) for at in range(0, len(ids), 16)}
        return claimed

    async def _held_by(self, parent: int) -> Claimed:
        """What the worker with this process id has claimed."""
        described = await self.store.hgetall(keys.WORKERS)
        names = {name.decode() for name, text in described.items() if json.loads(text)["pid"] == parent}
        own = {keys.claims(name).encode() for name in names}
        return {flight: claim for flight, claim in (await self._claims()).items() if claim[0] in own}

    async def _until_restarted(self, struck: Claimed, since: float) -> float:
        """Seconds from ``since`` until everything struck is in another claim, or has ended."""
        left = dict(struck)
        while left and time.monotonic() - since < GIVE_UP_S:
            now = await self._claims()
            scores = await self.store.zmscore(keys.OPEN, list(left))
            left = {
                flight: claim
                for (flight, claim), score in zip(list(left.items()), scores, strict=True)
                if score is not None and now.get(flight, claim) == claim
            }
            await asyncio.sleep(POLL_S)
        return time.monotonic() - since

    def _a_worker(self) -> int:
        return self._rng.choice(self._pids(*Stage))

    async def kill_child(self) -> float:
        """``kill -9`` of a pool's child, of any stage."""
        parent = self._a_worker()
        children = psutil.Process(parent).children()
        struck = await self._held_by(parent)
        began = time.monotonic()
        os.kill(children[0].pid if children else parent, signal.SIGKILL)
        return await self._until_restarted(struck, began)

    async def kill_worker(self) -> float:
        """``kill -9`` of a worker with its children."""
        parent = self._a_worker()
        struck = await self._held_by(parent)
        began = time.monotonic()
        for process in [psutil.Process(parent), *psutil.Process(parent).children(recursive=True)]:
            process.kill()
        return await self._until_restarted(struck, began)

    async def pause(self) -> float:
        """SIGSTOP of a worker with its children, beyond its lease, then SIGCONT: its late settle must be refused."""
        parent = self._a_worker()
        processes = [psutil.Process(parent), *psutil.Process(parent).children(recursive=True)]
        struck = await self._held_by(parent)
        began = time.monotonic()
        for process in processes:
            process.suspend()
        try:
            await asyncio.sleep(5)
            return await self._until_restarted(struck, began)
        finally:
            for process in processes:
                if process.is_running():
                    process.resume()

    async def kill_sweeper(self) -> float:
        """``kill -9`` of the sweeper: until one leads again."""
        (pid,) = self._pids("sweeper")
        leader = await self.store.get(keys.TAG + "leader")
        began = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        while await self.store.get(keys.TAG + "leader") in (leader, None):
            await asyncio.sleep(POLL_S)
        return time.monotonic() - began

    async def kill_api(self) -> float:
        """``kill -9`` of the API: until it is ready again."""
        (pid,) = self._pids("api")
        began = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        await self._until_ready()
        return time.monotonic() - began

    async def restart_store(self) -> float:
        """``kill -9`` of the store; its supervisor starts it again. Until the API is ready again."""
        (pid,) = self._pids("store")
        began = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        await self._until_ready()
        return time.monotonic() - began

    async def _until_ready(self) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(3)) as http:
            while True:
                try:
                    async with http.get(f"{self._stack.api_url}/readyz") as answer:
                        if answer.status == 200:
                            return
                except (aiohttp.ClientError, TimeoutError):
                    pass
                await asyncio.sleep(POLL_S)

    async def drop_bells(self) -> float:
        """Delete every bell in every queue: until the lanes that wait are claimed from again."""
        began = time.monotonic()
        for stage in Stage:
            await self.store.delete(keys.TAG + stage)
        waiting = list(await self.store.zrange(keys.LANES, 0, -1))
        clock = await self.store.time()
        dropped_ms = clock[0] * 1000 + clock[1] / 1000
        while waiting and time.monotonic() - began < GIVE_UP_S:
            still = []
            for lane in waiting:
                served = await self.store.zscore(keys.LANES, lane)
                if served < dropped_ms and await self.store.zcard(keys.waiting(lane.decode())):
                    still.append(lane)
            waiting = still
            await asyncio.sleep(POLL_S)
        return time.monotonic() - began

    async def send_poison(self) -> float:
        """A request that kills its process every time it is run."""
        self._poisoned += 1
        await self.poison.put({"x": self._poisoned, "do": "crash"})
        return 0.0

    async def term(self) -> float:
        """SIGTERM to a worker: it finishes what it has begun; its supervisor starts it again."""
        parent = self._a_worker()
        struck = await self._held_by(parent)
        began = time.monotonic()
        os.kill(parent, signal.SIGTERM)
        return await self._until_restarted(struck, began)

    NAMES = (
        "kill-child",
        "kill-worker",
        "kill-api",
        "kill-sweeper",
        "restart-store",
        "drop-bells",
        "pause",
        "poison",
        "term",
    )

    async def strike(self, name: str) -> float:
        """One fault by its name; how long it took until all it had struck was under way again, in seconds."""
        return await getattr(self, "send_poison" if name == "poison" else name.replace("-", "_"))()
