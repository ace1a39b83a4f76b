"""What runs in a child of the pool: one runner for its stage, made when the child starts, used for every bell."""

import faulthandler
import gc
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

from billiard.common import terminate_handler_fired
from tenacity import retry, retry_if_exception_type, wait_random_exponential

from pipeline.breakers.calls import Breakers
from pipeline.contracts.failures import SoftLimit, describe
from pipeline.contracts.lanes import parse_lane
from pipeline.contracts.stages import Stage
from pipeline.ledger.result_cache import CacheFiller
from pipeline.ledger.workers.claims import Claims, Fenced
from pipeline.settings import Settings
from pipeline.store.connection import Client, connect
from pipeline.store.errors import StoreError
from pipeline.telemetry.events.requests import ClaimsOwed
from pipeline.telemetry.events.workers import ProcessEnds
from pipeline.worker.batches import Served, Unfit
from pipeline.worker.guard import TOO_LONG
from pipeline.worker.incarnation import Incarnation
from pipeline.worker.runner import Runner
from pipeline.worker.slots import Slot
from tasks.stages import load_stage

_OUTAGE = retry_if_exception_type(StoreError)
_PAUSE = wait_random_exponential(multiplier=0.1, max=1)


class _Child:
    """What a child of the pool holds for as long as it lives."""

    def __init__(self, stage: Stage, incarnation: Incarnation, settings: Settings, device: str, pool: str) -> None:
        client = connect(settings, extra_wait_s=settings.park_s + 1)
        self.claims = Claims(client, settings, lambda: incarnation.name)
        slot = incarnation.children.take(os.getpid())
        breakers = Breakers(slot.report_breakers)
        cache = CacheFiller(settings.cache_url, settings, breakers) if settings.cache_url else None
        service = load_stage(stage, settings, breakers, slot, device, pool)
        failpoint = failpoint_of(settings.failpoints)
        self.runner = Runner(service, self.claims, cache, settings, slot, failpoint, terminate_handler_fired)
        self.overran = slot.overran
        self.debt = Debt(self.claims)
        self._catches = False
        _register(incarnation, client, slot)

    def catch_soft_limit(self) -> None:
        """Installs the handler of the soft time limit, which also logs the stacks of all threads.

        Called with each bell, not at the start: the pool installs its own handler after a child has started.
        """
        if not self._catches:
            signal.signal(signal.SIGUSR1, _soft_limit)
            faulthandler.register(signal.SIGUSR1, all_threads=True, chain=True)
            self._catches = True


def _soft_limit(*_: object) -> None:
    # Only the stage's own code may be interrupted: in the middle of a call to the store, or of a report to its parent,
    # this process would leave half a message behind. The runner checks again before it calls the stage, so that a
    # signal that came meanwhile is not lost; and one that came too late for its batch does not hit the next.
    if _child is not None and _child.runner.performing and _child.overran():
        raise SoftLimit(TOO_LONG)


_child: _Child | None = None


def failpoint_of(folder: Path | None) -> Callable[[str], None]:
    """Returns what the runner calls at each named step. It does nothing, except in tests that name a folder."""
    if folder is None:
        return _no_failpoint
    from pipeline.testing.failpoints import Failpoints  # noqa: PLC0415 - for tests only

    return Failpoints(folder)


def _no_failpoint(step: str) -> None:
    pass


def start(stage: Stage, incarnation: Incarnation, settings: Settings, device: str, pool: str) -> None:
    """Makes this process ready to answer bells. ``device``: as torch names it; ``pool``: of models (scoring only)."""
    global _child
    _child = _Child(stage, incarnation, settings, device, pool)
    # What is loaded by now lives as long as this process. The garbage collector need not walk all of torch again and
    # again, as it would after every few batches.
    gc.collect()
    gc.freeze()


def answer(lane: str) -> Served:
    """Answers a bell. Whatever interrupts it, this process holds no claim when it returns."""
    assert _child is not None, "the child was not started: start workers with `scoreline worker STAGE`"
    _child.catch_soft_limit()
    served_lane = parse_lane(lane)
    try:
        _child.debt.pay()
        return _child.runner.serve(served_lane)
    except Fenced:
        # The parent takes a new name within a heartbeat; the sweeper has rung the lane again.
        return Served()
    except StoreError:
        _child.debt.owe()
        raise
    except Unfit as reason:
        ProcessEnds(reason=str(reason)).emit()
    except BaseException as error:
        if terminate_handler_fired():
            _child.debt.owe()
            raise
        ProcessEnds(reason=describe(error)).emit(error)
    # The parent releases what is held, and charges the batch that runs, if one does: an unknown error must not come
    # back with the same requests for ever.
    os._exit(os.EX_SOFTWARE)


@retry(retry=_OUTAGE, wait=_PAUSE)
def _register(incarnation: Incarnation, client: Client, slot: Slot) -> None:
    incarnation.register(client, child=slot)


class Debt:
    """Claims to give back after an interruption. Until that is done, which an outage may delay, nothing is claimed."""

    def __init__(self, claims: Claims) -> None:
        self._claims = claims
        self._owed = False
        self._lock = threading.Lock()

    def owe(self) -> None:
        """Gives back what this process holds; if the store does not answer, a thread goes on trying."""
        self._owed = True
        try:
            self.pay()
        except StoreError as error:
            ClaimsOwed(error=str(error)).emit()
            threading.Thread(target=self._pay_when_possible, name="give-back", daemon=True).start()

    def pay(self) -> None:
        """Gives back what is owed; raises the store's error if it does not answer."""
        with self._lock:
            if self._owed:
                self._claims.give_back()
                self._owed = False

    @retry(wait=_PAUSE)  # after any error: this thread must not end unnoticed
    def _pay_when_possible(self) -> None:
        self.pay()
