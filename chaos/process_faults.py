"""Faults of single processes: kills, pauses, a cut or slow network, refused commands, a wrong clock."""

import asyncio
import itertools
import os
import random
import signal
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path

from chaos.injections import Injection, Record
from chaos.rights import Rights
from chaos.targets import Targets, Worker, now_ms, until
from chaos.testbed import TURNABLE, WORKERS
from pipeline.contracts.stages import Stage
from pipeline.testing.failpoints import arm

STEPS = ("after-claim", "after-settle", "before-ack")
AT_STEP_S = 5.0
CUT_S = 20.0
SLOW_S, ADDED_S = 6.0, 0.2
PAUSED_S = 5.5
"""Longer than the lease (3 s), shorter than what replaces a process that hangs (16 s)."""
TURNED_S = 6.0


class ProcessFaults:
    """Injects faults into single processes. Each method returns when its target serves again."""

    def __init__(self, targets: Targets, rights: Rights, seed: int, record: Record) -> None:
        self._targets = targets
        self._testbed = targets.testbed
        self._rights = rights
        self._record = record
        self._rngs = {
            name: random.Random(f"{seed}:{name}") for name in ("worker", "kill", "pause", "way", "turn", "rights")
        }
        # In seeded order, but each in its turn: a short run has all of them.
        self._kills = self._turns("kill", ("instant", *STEPS))
        self._holding = self._turns("worker", ("instant", "after-claim"))
        self._pauses = self._turns("pause", ("both", "child", "parent"))
        self.faults: dict[str, Callable[[str], Awaitable[None]]] = {
            "kill-child": self._kill_child,
            "kill-worker": self._kill_worker,
            "pause": self._pause,
            "partition": partial(self._network, "partition"),
            "slow-net": partial(self._network, "slow-net"),
            "abort-script": self._abort_script,
            "clock": self._clock,
            "kill-api": self._kill_api,
            "kill-sweeper": self._kill_sweeper,
        }
        """Each fault by its name; it takes the group whose process is to be hit."""

    def _turns(self, name: str, of: tuple[str, ...]) -> Iterator[str]:
        return itertools.cycle(self._rngs[name].sample(of, len(of)))

    async def _any_worker(self, group: str) -> Worker:
        return await self._targets.worker(self._rngs["worker"].choice(WORKERS[Stage(group)]))

    def _hit(self, fault: str, worker: Worker, at: float, *, child_alone: bool = False) -> None:
        pid = worker.child.pid if child_alone else None
        self._record.add(Injection(fault, at, (worker.incarnation,), pid))

    async def _at_step(self, worker: Worker, step: str, number: signal.Signals) -> float | None:
        """Has the worker's child signalled at a step. Returns when (ms), or None if it does not come there in time."""
        folder = self._testbed.failpoints(worker.name)
        file = arm(folder, step, number)

        async def gone() -> bool:
            return not file.exists()

        if await until(gone, AT_STEP_S):
            return _changed_ms(folder)
        file.unlink(missing_ok=True)
        return None

    async def _kill_child(self, group: str) -> None:
        """``kill -9`` of a pool's child, at any instant or at a named step."""
        worker = await self._any_worker(group)
        step, at = next(self._kills), None
        if step != "instant":
            at = await self._at_step(worker, step, signal.SIGKILL)
        if at is None:
            worker.child.kill()
            at = now_ms()
        self._hit("kill-child", worker, at, child_alone=True)
        await self._targets.worker(worker.name, after=worker)

    async def _kill_worker(self, group: str) -> None:
        """``kill -9`` of a worker with its child, at any instant or while it holds a batch."""
        worker = await self._any_worker(group)
        if next(self._holding) != "instant":
            await self._at_step(worker, "after-claim", signal.SIGSTOP)
        for process in worker.processes:
            process.kill()
        self._hit("kill-worker", worker, now_ms())
        await self._targets.worker(worker.name, after=worker)

    async def _pause(self, group: str) -> None:
        """SIGSTOP beyond the lease, then SIGCONT: of the parent, of the child while it holds a batch, or of both."""
        worker = await self._any_worker(group)
        which = next(self._pauses)
        at = None if which == "parent" else await self._at_step(worker, "after-claim", signal.SIGSTOP)
        stopped = [worker.parent] if which == "parent" else [worker.child] if which == "child" else worker.processes
        try:
            for process in stopped:
                process.suspend()
            self._hit("pause", worker, at or now_ms())
            await asyncio.sleep(PAUSED_S)
        finally:
            for process in stopped:
                if process.is_running():
                    process.resume()
        await self._targets.worker(worker.name)

    async def _network(self, fault: str, group: str) -> None:
        """A process's network to the store drops everything for a while, without a reset, or is slow."""
        rng, proxy = self._rngs["way"], self._testbed.proxy
        worker, leader = None, b""
        if group == "sweeper":
            name, leader = await self._targets.leader()
        elif group == "api":
            name = "api"
        else:
            worker = await self._targets.worker(rng.choice(WORKERS[Stage(group)]))
            name = worker.name
        began = now_ms()
        try:
            if fault == "partition":
                proxy.cut(name)
            else:
                proxy.slow(name, ADDED_S)
            await asyncio.sleep(CUT_S if fault == "partition" else SLOW_S)
        finally:
            proxy.restore(name)
        if worker is not None:
            self._hit(fault, worker, began)
            await self._targets.worker(name)
        elif group == "api":
            restored = now_ms()
            await until(self._targets.api_is_ready)
            self._record.add(Injection(fault, began, took_s=(now_ms() - restored) / 1000))
        else:
            if fault == "partition":
                await self._targets.led_by_another(leader)
            self._record.add(Injection(fault, began))

    async def _abort_script(self, group: str) -> None:
        """A command that scripts send is refused to one service for a while: they stop there, half done."""
        if group == "api":
            await self._rights.refuse(group, ["api"])
            allowed = now_ms()
            await until(self._targets.api_is_ready)
            self._record.add(Injection("abort-script", allowed, took_s=(now_ms() - allowed) / 1000))
        elif group == "sweeper":
            name, _ = await self._targets.leader()
            await self._rights.refuse(group, [name])
            allowed = now_ms()
            await self._targets.leader()
            self._record.add(Injection("abort-script", allowed, took_s=(now_ms() - allowed) / 1000))
        else:
            worker = await self._targets.worker(self._rngs["rights"].choice(WORKERS[Stage(group)]))
            began = now_ms()
            await self._rights.refuse(group, [worker.name])
            self._hit("abort-script", worker, began)
            await self._targets.worker(worker.name)

    async def _clock(self, group: str) -> None:
        """A running worker's wall clock jumps by a minute, forward or back, and some seconds later back again."""
        name = next(name for name in TURNABLE if name.startswith(group))
        worker = await self._targets.worker(name)
        began = now_ms()
        try:
            self._testbed.turn_clock(name, self._rngs["turn"].choice([-60, 60]))
            await asyncio.sleep(TURNED_S)
        finally:
            self._testbed.turn_clock(name, 0)
        self._hit("clock", worker, began)
        again = await self._targets.worker(name)
        if again.parent.pid != worker.parent.pid or again.incarnation != worker.incarnation:
            self._record.unmet.append(f"clock: {name} did not stay what it was when its clock was turned")

    async def _kill_api(self, _: str) -> None:
        """``kill -9`` of the API: until it is ready again."""
        pid = await self._targets.pid("api")
        began = now_ms()
        os.kill(pid, signal.SIGKILL)
        await until(self._targets.api_is_ready)
        self._record.add(Injection("kill-api", began, took_s=(now_ms() - began) / 1000))

    async def _kill_sweeper(self, _: str) -> None:
        """``kill -9`` of the sweeper that leads: until the other one does."""
        name, leader = await self._targets.leader()
        pid = await self._targets.pid(name)
        began = now_ms()
        os.kill(pid, signal.SIGKILL)
        await self._targets.led_by_another(leader)
        self._record.add(Injection("kill-sweeper", began, took_s=(now_ms() - began) / 1000))
        await self._targets.pid(name)


def _changed_ms(folder: Path) -> float:
    """When a file last came to this folder or left it."""
    return folder.stat().st_mtime_ns / 1e6
