"""Faults that hit everything at once: the store, its bells, memory, disk and users; SIGTERM to all services."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from chaos.injections import Injection, Record
from chaos.load import Producer
from chaos.recovery import WATCHED_MS
from chaos.rights import Rights
from chaos.targets import POLL_S, Targets, now_ms, until
from chaos.testbed import USERS, WORKERS
from pipeline.contracts.stages import Stage
from pipeline.ledger import keys

DOWN_S = 10.0
FULL_S = 4.0
DISK_FULL_S = 10.0
RECENT_MS = 5000
_HOG = """
import os, sys
with open(sys.argv[1], "wb") as file:
    while True:
        file.seek(0)
        for _ in range(64):
            file.write(os.urandom(1 << 20))
            file.flush()
            os.fsync(file.fileno())
"""


class GlobalFaults:
    """Injects faults that hit every process at once."""

    def __init__(self, targets: Targets, producer: Producer, rights: Rights, record: Record) -> None:
        self._targets = targets
        self._producer = producer
        self._rights = rights
        self._record = record
        self._stack = targets.testbed.stack
        self._store = targets.store

    async def inject(self, fault: str) -> None:
        """Injects a fault; returns when everything serves again: the next fault is to find nothing else down."""
        await getattr(self, f"_{fault.replace('-', '_')}")()
        await until(self._targets.api_is_ready)
        for name in (name for names in WORKERS.values() for name in names):
            await self._targets.worker(name)
        await until(self._mode_is_usual)

    async def _accepted(self) -> bool:
        return (await self._producer.probe()).answer == "accepted"

    async def _refused_as_full(self) -> bool:
        return (await self._producer.probe()).last_state == "store-full"

    async def _served_lanes(self) -> list[str]:
        """Returns the lanes that were claimed from recently: under load, they will be again."""
        lanes = await self._store.zrange(keys.LANES, 0, -1, withscores=True)
        return [lane.decode() for lane, last in lanes if now_ms() - last < RECENT_MS and b"credit-default" in lane]

    async def _since(self, fault: str, began: float, lanes: list[str]) -> None:
        """Records a fault that was over at ``began``: until a request is accepted, and each lane is claimed from."""
        await until(self._accepted)
        self._record.add(Injection(fault, began, lanes=lanes, took_s=(now_ms() - began) / 1000))

    async def _store_pid(self) -> int:
        return await self._targets.pid("store")

    async def _drop_bells(self) -> None:
        """Delete every bell in every queue."""
        lanes = await self._served_lanes()
        began = now_ms()
        await self._store.delete(*(keys.TAG + stage for stage in Stage))
        self._record.add(Injection("drop-bells", began, lanes=lanes))
        await asyncio.sleep(WATCHED_MS / 1000 + 1)  # no other fault may be the reason that a lane is not claimed from

    async def _abort_script(self) -> None:
        """A command that scripts send is refused to all services for a while."""
        lanes = await self._served_lanes()
        await self._rights.refuse("store", USERS)
        await self._since("abort-script", now_ms(), lanes)

    async def _restart_store(self) -> None:
        """``kill -9`` of the store, ten seconds without it, with a process that keeps the disk busy all the while."""
        pid, lanes = await self._store_pid(), await self._served_lanes()
        (supervisor,) = self._stack.root_pids()
        with _busy_disk(self._stack.data_dir):
            os.kill(supervisor, signal.SIGSTOP)
            try:
                os.kill(pid, signal.SIGKILL)
                await asyncio.sleep(DOWN_S)
            finally:
                os.kill(supervisor, signal.SIGCONT)
            await until(self._store.ping)
            await self._since("restart-store", now_ms(), lanes)

    async def _term(self) -> None:
        """SIGTERM to everything, then start it again: nothing is lost, and nothing is charged."""
        lanes, began = await self._served_lanes(), now_ms()
        await asyncio.to_thread(self._stack.stop_services)
        starting = asyncio.to_thread(self._stack.start_services)
        await asyncio.gather(starting, self._since("term", now_ms(), lanes))
        self._record.uncharged.append((began, now_ms()))

    async def _store_full(self) -> None:
        """Nine tenths of the store's memory limit are used: new work is refused, what is accepted goes on."""
        limit = (await self._store.config_get("maxmemory"))["maxmemory"]
        used = (await self._store.info("memory"))["used_memory"]
        await self._store.config_set("maxmemory", int(used / 0.9))
        try:
            if not await until(self._refused_as_full, 10):
                self._record.unmet.append("store-full: a submit was not refused as store-full within 10 s")
            await asyncio.sleep(FULL_S)
        finally:
            await self._store.config_set("maxmemory", limit)
        await self._since("store-full", now_ms(), [])

    async def _disk_full(self) -> None:
        """The server's files cannot grow: it refuses writes, or exits and is restarted, until there is space."""
        refused = restarted = 0
        limited: dict[int, int] = {}
        lanes, ends_at = await self._served_lanes(), now_ms() + DISK_FULL_S * 1000
        while now_ms() < ends_at:
            pid = (await asyncio.to_thread(self._stack.states)).get("store", {}).get("pid", 0)
            if pid and pid not in limited:
                try:
                    limited[pid] = _forbid_growth(pid, self._stack.data_dir)
                except (psutil.Error, OSError):
                    continue  # it has just died
                restarted = len(limited) - 1
            refused += await self._refused_as_full()
            await asyncio.sleep(10 * POLL_S)
        for pid in limited:
            if psutil.pid_exists(pid):
                psutil.Process(pid).rlimit(psutil.RLIMIT_FSIZE, (psutil.RLIM_INFINITY, psutil.RLIM_INFINITY))
        began = now_ms()
        if self._stack.durability == "process" and not refused:
            self._record.unmet.append("disk-full: no submit was refused as store-full")
        if self._stack.durability == "disk" and not restarted:
            self._record.unmet.append("disk-full: the store was not started again")
        await self._since("disk-full", began, lanes)
        # The sweeper has the file rewritten: until that is done, a kill of the store would be a second fault at once.
        await until(self._file_is_whole)

    async def _mode_is_usual(self) -> bool:
        """Limits are doubled in degraded mode."""
        return not await self._store.exists(keys.DEGRADED)

    async def _file_is_whole(self) -> bool:
        facts = await self._store.info("persistence")
        return not facts["aof_rewrite_in_progress"] and not facts["aof_rewrite_scheduled"]


def _forbid_growth(pid: int, folder: Path) -> int:
    """Keeps a process from writing any file larger than its append-only file is now; returns that size."""
    size = max(file.stat().st_size for file in (folder / "appendonlydir").glob("*.incr.aof"))
    process = psutil.Process(pid)
    _, hard = process.rlimit(psutil.RLIMIT_FSIZE)
    process.rlimit(psutil.RLIMIT_FSIZE, (size, hard))
    return size


@contextmanager
def _busy_disk(folder: Path) -> Iterator[None]:
    """Runs a process that writes to the disk and waits for it, without pause."""
    file = folder / "hog"
    process = subprocess.Popen([sys.executable, "-c", _HOG, str(file)])
    try:
        yield
    finally:
        process.kill()
        process.wait()
        file.unlink(missing_ok=True)
