"""The canary: a tiny computation with a known answer, between batches and while nothing else is computed.

It finds a device that computes wrongly or not at all before a request does.
"""

import os
import threading
import time
from collections.abc import Callable
from typing import Protocol
from weakref import WeakSet

import torch

from pipeline.contracts.failures import NotNow, describe
from pipeline.service.periodic import Periodic
from pipeline.telemetry.events.devices import CanaryFailed
from scoring.device import Device
from scoring.failures import kind_of

EVERY_S = 5.0
SOON_S = 0.2
"""Between two things to do on an idle device: who waits for it gets in between."""
SIZE = 64


class Reports(Protocol):
    """Where a scoring process reports; its parent reads it, even if the process hangs or is dead by then."""

    def canary_began(self) -> None:
        """Reports that the canary begins."""

    def canary_ended(self, *, right: bool) -> None:
        """Reports that the canary has come back, and whether with the right answer."""

    def report_models(self, models: list[str]) -> None:
        """Reports which models are in memory."""


class Canary(Periodic):
    """Runs by itself while the device is idle; batches ask for it in between."""

    def __init__(
        self,
        device: Device,
        reports: Reports,
        otherwise: Callable[[], bool] = lambda: False,
        end: Callable[[int], object] = os._exit,
    ) -> None:
        """``otherwise``: something short to do on the idle device; whether more is left. ``end``: this process."""
        super().__init__("canary", SOON_S)
        self._end = end
        self._otherwise = otherwise
        self._device = device
        self._reports = reports
        self._turn = threading.Lock()
        self._computing: WeakSet[object] = WeakSet()  # one that is given up in the middle is forgotten with it
        self._checked_at = 0.0
        # Whole numbers, and few: a matrix product of them is exact in every format and order.
        numbers = (torch.arange(SIZE * SIZE) % 3).reshape(SIZE, SIZE)
        self._answer = (numbers @ numbers).float()
        (self._numbers,) = device.stage([numbers.float()])
        self.wrong = False

    def turn(self) -> None:
        """Look; while something computes it is that which is watched.

        What fails on an idle device is no request's fault, and this process can be trusted no more: it is replaced.
        """
        try:
            with self._turn:
                if not self._computing:
                    self._check()
                    self.every_s = SOON_S if self._otherwise() else EVERY_S
        except BaseException as error:
            try:
                CanaryFailed(device=str(self._device.place), error=describe(error)).emit(error)
            finally:
                self._end(os.EX_SOFTWARE)
            raise

    def begins(self, batch: object) -> None:
        """A batch is about to compute."""
        with self._turn:
            if not self._computing:
                self._check()
            self._computing.add(batch)

    def ended(self, batch: object) -> None:
        """It has computed."""
        with self._turn:
            self._computing.discard(batch)

    def _check(self) -> None:
        if time.monotonic() - self._checked_at < EVERY_S:
            return
        self._reports.canary_began()
        try:
            self.wrong = self.wrong or not torch.equal((self._numbers @ self._numbers).cpu(), self._answer)
        except Exception as error:
            kind = kind_of(error)
            if kind is None or not kind.ends_process:
                raise
            raise kind(describe(error)) from error
        finally:
            self._reports.canary_ended(right=not self.wrong)
        self._checked_at = time.monotonic()

    def refuse_if_wrong(self) -> None:
        """NotNow if the device has given a wrong answer: another process or device may give the right ones."""
        if self.wrong:
            raise NotNow(f"the canary's answer on {self._device.place} is wrong", 1.0)
