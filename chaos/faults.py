"""Faults that strike one process. Each strikes once, and returns when its victim serves again."""

import asyncio
import itertools
import json
import os
import random
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from chaos.checker import Poison, Sent
from chaos.ground import TURNABLE, WORKERS
from chaos.load import Producer, request_id_of
from chaos.recovery import Strike
from chaos.rights import Rights
from chaos.victims import Victims, Worker, now_ms, until
from pipeline.contracts.stages import Stage
from pipeline.testing.failpoints import arm
from pipeline.worker.devices.watch import EX_DRAIN

STEPS = ("after-claim", "after-settle", "before-ack")
AT_STEP_S = 5.0
CUT_S = 20.0
SLOW_S, ADDED_S = 6.0, 0.2
PAUSED_S = 5.5
"""Beyond the lease (3 s), short of what replaces a process that hangs (16 s)."""
TURNED_S = 6.0
FAILS: dict[str, Poison] = {"oom": "oom", "nan": "nan", "cuda-sticky": "cuda"}
"""What the model is told to do for each."""
OTHERS = 7
FAILURES = 12
AWAY_S = 3.0


class Faults:
    """What can be done to single processes.

    ``strikes``: what was done. ``unmet``: what should have come of it, and did not.
    """

    def __init__(self, victims: Victims, producer: Producer, rights: Rights, seed: int) -> None:
        self._victims = victims
        self._producer = producer
        self._rights = rights
        self._ground = victims.ground
        self._rngs = {
            name: random.Random(f"{seed}:{name}")
            for name in ("worker", "child", "kill", "pause", "way", "turn", "device", "rights")
        }
        self.strikes: list[Strike] = []
        self.unmet: list[str] = []
        # In seeded order, but each in its turn: a short run has all of them.
        self._kills = self._turns("kill", ("instant", *STEPS))
        self._holding = self._turns("worker", ("instant", "after-claim"))
        self._pauses = self._turns("pause", ("both", "child", "parent"))
        self._hangs = self._turns("child", ("soft", "hard"))

    def _turns(self, name: str, of: tuple[str, ...]) -> Iterator[str]:
        return itertools.cycle(self._rngs[name].sample(of, len(of)))

    async def strike(self, fault: str, group: str) -> None:
        """One fault, at one of a group's processes."""
        if fault in ("kill-child", "kill-worker", "pause"):
            worker = await self._victims.worker(self._rngs["worker"].choice(WORKERS[Stage(group)]))
            await getattr(self, f"_{fault.replace('-', '_')}")(worker)
            await self._victims.worker(worker.name, after=None if fault == "pause" else worker)
        elif fault in ("partition", "slow-net"):
            await self._network(fault, group)
        elif fault == "abort-script":
            await self._abort_script(group)
        elif fault == "clock":
            await self._clock(next(name for name in TURNABLE if name.startswith(group)))
        elif fault in ("poison", "hang"):
            await self._poison(fault)
        elif fault in FAILS:
            await self._failing_row(fault)
        elif fault in ("device-sick", "device-back"):
            await self._device(fault)
        elif fault == "fallback":
            await self._fallback()
        else:
            await (self._kill_api() if fault == "kill-api" else self._kill_sweeper())

    def _struck(self, fault: str, worker: Worker, at: float, *, child_alone: bool = False) -> None:
        pid = worker.child.pid if child_alone else None
        self.strikes.append(Strike(fault, at, (worker.incarnation,), pid))

    async def _at_step(self, worker: Worker, step: str, number: signal.Signals) -> float | None:
        """Have the worker's child sent a signal at a step; when it was, or None if it does not come there."""
        folder = self._ground.failpoints(worker.name)
        file = arm(folder, step, number)

        async def gone() -> bool:
            return not file.exists()

        if await until(gone, AT_STEP_S):
            return _changed_ms(folder)
        file.unlink(missing_ok=True)
        return None

    async def _kill_child(self, worker: Worker) -> None:
        """``kill -9`` of a pool's child, at any instant or at a named step."""
        step, at = next(self._kills), None
        if step != "instant":
            at = await self._at_step(worker, step, signal.SIGKILL)
        if at is None:
            worker.child.kill()
            at = now_ms()
        self._struck("kill-child", worker, at, child_alone=True)

    async def _kill_worker(self, worker: Worker) -> None:
        """``kill -9`` of a worker with its child, at any instant or while it holds a batch."""
        if next(self._holding) != "instant":
            await self._at_step(worker, "after-claim", signal.SIGSTOP)
        for process in worker.processes:
            process.kill()
        self._struck("kill-worker", worker, now_ms())

    async def _pause(self, worker: Worker) -> None:
        """SIGSTOP beyond the lease, then SIGCONT: of the parent, of the child while it holds a batch, or of both."""
        which = next(self._pauses)
        at = None if which == "parent" else await self._at_step(worker, "after-claim", signal.SIGSTOP)
        stopped = [worker.parent] if which == "parent" else [worker.child] if which == "child" else worker.processes
        try:
            for process in stopped:
                process.suspend()
            self._struck("pause", worker, at or now_ms())
            await asyncio.sleep(PAUSED_S)
        finally:
            for process in stopped:
                if process.is_running():
                    process.resume()

    async def _network(self, fault: str, group: str) -> None:
        """A process's network to the store drops everything for a while, without a reset, or is slow."""
        rng, proxy = self._rngs["way"], self._ground.proxy
        worker, leader = None, b""
        if group == "sweeper":
            name, leader = await self._victims.leader()
        elif group == "api":
            name = "api"
        else:
            worker = await self._victims.worker(rng.choice(WORKERS[Stage(group)]))
            name = worker.name
        began = now_ms()
        try:
            if fault == "partition":
                proxy.cut(name)
            else:
                proxy.slow(name, ADDED_S)
            await asyncio.sleep(CUT_S if fault == "partition" else SLOW_S)
        finally:
            proxy.mend(name)
        if worker is not None:
            self._struck(fault, worker, began)
            await self._victims.worker(name)
        elif group == "api":
            mended = now_ms()
            await until(self._victims.api_is_ready)
            self.strikes.append(Strike(fault, began, took_s=(now_ms() - mended) / 1000))
        else:
            if fault == "partition":
                await self._victims.led_by_another(leader)
            self.strikes.append(Strike(fault, began))

    async def _abort_script(self, group: str) -> None:
        """A command that scripts send is refused to one service for a while: they stop there, half done."""
        if group == "api":
            await self._rights.refuse(group, ["api"])
            allowed = now_ms()
            await until(self._victims.api_is_ready)
            self.strikes.append(Strike("abort-script", allowed, took_s=(now_ms() - allowed) / 1000))
        elif group == "sweeper":
            name, _ = await self._victims.leader()
            await self._rights.refuse(group, [name])
            allowed = now_ms()
            await self._victims.leader()
            self.strikes.append(Strike("abort-script", allowed, took_s=(now_ms() - allowed) / 1000))
        else:
            worker = await self._victims.worker(self._rngs["rights"].choice(WORKERS[Stage(group)]))
            began = now_ms()
            await self._rights.refuse(group, [worker.name])
            self._struck("abort-script", worker, began)
            await self._victims.worker(worker.name)

    async def _clock(self, name: str) -> None:
        """A running worker's wall clock jumps by a minute, forward or back, and some seconds later back again."""
        worker = await self._victims.worker(name)
        began = now_ms()
        try:
            self._ground.turn_clock(name, self._rngs["turn"].choice([-60, 60]))
            await asyncio.sleep(TURNED_S)
        finally:
            self._ground.turn_clock(name, 0)
        self._struck("clock", worker, began)
        again = await self._victims.worker(name)
        if again.parent.pid != worker.parent.pid or again.incarnation != worker.incarnation:
            self.unmet.append(f"clock: {name} did not stay what it was when its clock was turned")

    async def _poison(self, fault: str) -> None:
        """A request that kills its process each time it is run, or hangs: until the soft limit, or through it."""
        do: Poison = "crash" if fault == "poison" else "hang"
        seconds = float(do == "hang" and next(self._hangs) == "hard")
        logs = self._ground.logs(WORKERS[Stage.SCORING])
        began = now_ms()
        one = await self._accepted_poison(do, seconds=seconds)
        self.strikes.append(Strike(fault, began, poison=request_id_of(one)))

        async def ended() -> bool:
            await self._producer.read(one, 2)
            return bool(one.read)

        if not await until(ended, 2 * 60):
            self.unmet.append(f"{fault}: {one.request_id} has not ended within two minutes")
        elif do == "hang" and "Current thread 0x" not in self._ground.logged_since(logs):
            self.unmet.append("hang: the stacks of all threads are not in the log")
        await self._both_score()

    async def _accepted_poison(self, do: Poison, *, model: str = "chaos-probe", seconds: float = 0.0) -> Sent:
        while True:
            one = await self._producer.poison(do, model=model, seconds=seconds)
            if one.answer == "accepted":
                return one
            await asyncio.sleep(1)  # another fault is under way

    async def _both_score(self) -> None:
        for name in WORKERS[Stage.SCORING]:
            await self._victims.worker(name)

    async def _ended(self, *requests: Sent) -> bool:
        """Whether all that were accepted have ended within a minute."""

        async def ended() -> bool:
            left = [one for one in requests if one.answer == "accepted" and not one.read]
            await asyncio.gather(*(self._producer.read(one, 2) for one in left))
            return all(one.read for one in left)

        return await until(ended)

    async def _failing_row(self, fault: str) -> None:
        """A row at which the model fails, sent with others: how long those take. So for a model with a fallback."""
        do, logs = FAILS[fault], self._ground.logs(WORKERS[Stage.SCORING])
        for model in ("chaos-probe", "chaos-backed"):
            began = now_ms()
            bad, *others = await asyncio.gather(
                self._accepted_poison(do, model=model), *(self._producer.sound(model) for _ in range(OTHERS))
            )
            if not await self._ended(*others):
                self.unmet.append(f"{fault}: requests sent with {bad.request_id} have not ended within a minute")
            # Not when we read that they had: the API that says so may be cut off by another fault.
            sent = [request_id for one in others if (request_id := request_id_of(one))]
            self.strikes.append(Strike(fault, began, ending=sent))
            if not await self._ended(bad):
                self.unmet.append(f"{fault}: {bad.request_id} has not ended within a minute")
        if fault == "cuda-sticky" and "process_ends" not in self._ground.logged_since(logs):
            self.unmet.append("cuda-sticky: no process has ended for it")
        await self._both_score()

    async def _device(self, fault: str) -> None:
        """A device falls off the bus: its worker says so, ends with 75 and stays away, until an operator starts it."""
        worker = await self._victims.worker(self._rngs["device"].choice(WORKERS[Stage.SCORING]))
        began = now_ms()

        async def drained() -> bool:
            info = (await asyncio.to_thread(self._ground.stack.states)).get(worker.name, {})
            return info.get("statename") == "EXITED" and info.get("exitstatus") == EX_DRAIN

        try:
            self._ground.say_device(worker.name, lost=True)
            if not await until(drained):
                self.unmet.append(f"{fault}: {worker.name} did not end with {EX_DRAIN}")
            if fault == "device-sick":
                self._struck(fault, worker, began)
            await asyncio.sleep(AWAY_S)
        finally:
            self._ground.say_device(worker.name)
        back = now_ms()
        await asyncio.to_thread(self._ground.stack.start_service, worker.name)
        await self._victims.worker(worker.name, after=worker)
        if fault == "device-back":
            self.strikes.append(Strike(fault, back, took_s=(now_ms() - back) / 1000))

    async def _fallback(self) -> None:
        """A model fails again and again: its fallback answers for it, until the model is tried again and is sound."""
        began = now_ms()

        async def given_up() -> bool:
            # Most of what each worker's breaker remembers has to have failed: nobody knows what that was before.
            for _ in range(FAILURES):
                await self._accepted_poison("raise", model="chaos-backed")
            return await self._answered_by("chaos-standin@1")

        answered = await until(given_up)
        patient = [await self._producer.sound("chaos-backed", degrades=False) for _ in range(OTHERS)]
        if answered:
            self.strikes.append(Strike("fallback", began, took_s=(now_ms() - began) / 1000))
        else:
            self.unmet.append("fallback: no request was answered by the fallback within a minute")
        if not await until(partial(self._answered_by, "chaos-backed@1")):
            self.unmet.append("fallback: the model was not tried again within a minute")
        if not await self._ended(*patient):
            self.unmet.append("fallback: who allows no degraded answer has none within a minute")

    async def _answered_by(self, model: str) -> bool:
        one = await self._producer.sound("chaos-backed", wait=5)
        return bool(one.read) and json.loads(one.read[-1])["scored_by"] == model

    async def _kill_api(self) -> None:
        """``kill -9`` of the API: until it is ready again."""
        pid = await self._victims.pid("api")
        began = now_ms()
        os.kill(pid, signal.SIGKILL)
        await until(self._victims.api_is_ready)
        self.strikes.append(Strike("kill-api", began, took_s=(now_ms() - began) / 1000))

    async def _kill_sweeper(self) -> None:
        """``kill -9`` of the sweeper that leads: until the other one does."""
        name, leader = await self._victims.leader()
        pid = await self._victims.pid(name)
        began = now_ms()
        os.kill(pid, signal.SIGKILL)
        await self._victims.led_by_another(leader)
        self.strikes.append(Strike("kill-sweeper", began, took_s=(now_ms() - began) / 1000))
        await self._victims.pid(name)


def _changed_ms(folder: Path) -> float:
    """When a file last came to this folder or left it."""
    return folder.stat().st_mtime_ns / 1e6
