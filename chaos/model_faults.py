"""Faults of the scoring stage: rows that the model fails on, batches that kill or hang a process, sick devices."""

import asyncio
import itertools
import json
import random
from collections.abc import Awaitable, Callable
from functools import partial

from chaos.checker import Poison, Sent
from chaos.injections import Injection, Record
from chaos.load import Producer, request_id_of
from chaos.targets import Targets, now_ms, until
from chaos.testbed import WORKERS
from pipeline.contracts.stages import Stage
from pipeline.worker.devices.watch import EX_DRAIN

FAILS: dict[str, Poison] = {"oom": "oom", "nan": "nan", "cuda-sticky": "cuda"}
"""What the model is told to do for each fault of a row."""
OTHERS = 7
"""Requests that are sent along with the one that fails."""
FAILURES = 12
AWAY_S = 3.0


class ModelFaults:
    """Injects faults into the model and its device. Each method returns when both scoring workers serve again."""

    def __init__(self, targets: Targets, producer: Producer, seed: int, record: Record) -> None:
        self._targets = targets
        self._testbed = targets.testbed
        self._producer = producer
        self._record = record
        self._device_rng = random.Random(f"{seed}:device")
        self._hangs = itertools.cycle(random.Random(f"{seed}:child").sample(("soft", "hard"), 2))
        self.faults: dict[str, Callable[[], Awaitable[None]]] = {
            **{name: partial(self._poison, name) for name in ("poison", "hang")},
            **{name: partial(self._failing_row, name) for name in FAILS},
            **{name: partial(self._device, name) for name in ("device-sick", "device-back")},
            "fallback": self._fallback,
        }
        """Each fault by its name."""

    async def _poison(self, fault: str) -> None:
        """A request kills its process whenever it runs, or hangs: until the soft time limit, or through it."""
        do: Poison = "crash" if fault == "poison" else "hang"
        seconds = float(do == "hang" and next(self._hangs) == "hard")
        logs = self._testbed.logs(WORKERS[Stage.SCORING])
        began = now_ms()
        one = await self._send_poison(do, seconds=seconds)
        self._record.add(Injection(fault, began, poison=request_id_of(one)))

        async def ended() -> bool:
            await self._producer.read(one, 2)
            return bool(one.read)

        if not await until(ended, 2 * 60):
            self._record.unmet.append(f"{fault}: {one.request_id} has not ended within two minutes")
        elif do == "hang" and "Current thread 0x" not in self._testbed.logged_since(logs):
            self._record.unmet.append("hang: the stacks of all threads are not in the log")
        await self._both_serve()

    async def _send_poison(self, do: Poison, *, model: str = "chaos-probe", seconds: float = 0.0) -> Sent:
        while True:
            one = await self._producer.poison(do, model=model, seconds=seconds)
            if one.answer == "accepted":
                return one
            await asyncio.sleep(1)  # another fault is under way

    async def _both_serve(self) -> None:
        for name in WORKERS[Stage.SCORING]:
            await self._targets.worker(name)

    async def _ended(self, *requests: Sent) -> bool:
        """Returns whether all that were accepted have ended within a minute."""

        async def ended() -> bool:
            left = [one for one in requests if one.answer == "accepted" and not one.read]
            await asyncio.gather(*(self._producer.read(one, 2) for one in left))
            return all(one.read for one in left)

        return await until(ended)

    async def _failing_row(self, fault: str) -> None:
        """The model fails on one row, sent along with others: how long those take. Also for a model with a fallback."""
        do, logs = FAILS[fault], self._testbed.logs(WORKERS[Stage.SCORING])
        for model in ("chaos-probe", "chaos-backed"):
            began = now_ms()
            bad, *others = await asyncio.gather(
                self._send_poison(do, model=model), *(self._producer.sound(model) for _ in range(OTHERS))
            )
            if not await self._ended(*others):
                self._record.unmet.append(
                    f"{fault}: requests sent with {bad.request_id} have not ended within a minute"
                )
            # Measured by the ledger's log, not by when we read it: another fault may cut off the API.
            sent = [request_id for one in others if (request_id := request_id_of(one))]
            self._record.add(Injection(fault, began, ending=sent))
            if not await self._ended(bad):
                self._record.unmet.append(f"{fault}: {bad.request_id} has not ended within a minute")
        if fault == "cuda-sticky" and "process_ends" not in self._testbed.logged_since(logs):
            self._record.unmet.append("cuda-sticky: no process has ended for it")
        await self._both_serve()

    async def _device(self, fault: str) -> None:
        """A device falls off the bus: its worker reports it, exits with 75 and stays down until it is started."""
        worker = await self._targets.worker(self._device_rng.choice(WORKERS[Stage.SCORING]))
        began = now_ms()

        async def drained() -> bool:
            info = (await asyncio.to_thread(self._testbed.stack.states)).get(worker.name, {})
            return info.get("statename") == "EXITED" and info.get("exitstatus") == EX_DRAIN

        try:
            self._testbed.say_device(worker.name, lost=True)
            if not await until(drained):
                self._record.unmet.append(f"{fault}: {worker.name} did not end with {EX_DRAIN}")
            if fault == "device-sick":
                self._record.add(Injection(fault, began, (worker.incarnation,)))
            await asyncio.sleep(AWAY_S)
        finally:
            self._testbed.say_device(worker.name)
        back = now_ms()
        await asyncio.to_thread(self._testbed.stack.start_service, worker.name)
        await self._targets.worker(worker.name, after=worker)
        if fault == "device-back":
            self._record.add(Injection(fault, back, took_s=(now_ms() - back) / 1000))

    async def _fallback(self) -> None:
        """A model fails repeatedly: its fallback answers, until the model is tried again and works."""
        began = now_ms()

        async def given_up() -> bool:
            # Most of each worker's breaker window must be failures, whatever it held before.
            for _ in range(FAILURES):
                await self._send_poison("raise", model="chaos-backed")
            return await self._answered_by("chaos-standin@1")

        answered = await until(given_up)
        patient = [await self._producer.sound("chaos-backed", degrades=False) for _ in range(OTHERS)]
        if answered:
            self._record.add(Injection("fallback", began, took_s=(now_ms() - began) / 1000))
        else:
            self._record.unmet.append("fallback: no request was answered by the fallback within a minute")
        if not await until(partial(self._answered_by, "chaos-backed@1")):
            self._record.unmet.append("fallback: the model was not tried again within a minute")
        if not await self._ended(*patient):
            self._record.unmet.append("fallback: requests that allow no degraded answer have not ended within a minute")

    async def _answered_by(self, model: str) -> bool:
        one = await self._producer.sound("chaos-backed", wait=5)
        return bool(one.read) and json.loads(one.read[-1])["scored_by"] == model
