"""A worker that would live on to no purpose is ended, and no other."""

import signal
import subprocess
import sys
import threading
from types import SimpleNamespace
from typing import Any

import fakeredis
import pytest
from celery.worker import state
from redis.exceptions import ConnectionError as StoreConnectionError

from pipeline.ledger.keys import TAG
from pipeline.service.health import Pulse
from pipeline.settings import read_settings
from tasks.watchdog import DEAF_S, LOOK_S, Watchdog, last_resort

SETTINGS = read_settings({})
IN_VAIN = round(DEAF_S / LOOK_S)
LONGEST = round((4 * SETTINGS.hard_limit_s + SETTINGS.bell_s) / LOOK_S)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(state, "all_total_count", [0])
    monkeypatch.setattr(state, "reserved_requests", set())
    client = fakeredis.FakeRedis()
    client.lpush(TAG + "preprocess", b"a bell")
    return client


@pytest.fixture
def watchdog(store: Any) -> Watchdog:
    dog = Watchdog(store, "preprocess", SETTINGS, Pulse(), SimpleNamespace(pids=list, starting=lambda: False))
    dog.listen(consumer("preprocess"))
    assert not dog.is_deaf()
    return dog


def consumer(*queues: str) -> Any:
    return SimpleNamespace(task_consumer=SimpleNamespace(consuming_from=lambda queue: queue in queues))


def looks_until_deaf(watchdog: Watchdog, most: int = 1000) -> int | None:
    return next((n for n in range(1, most) if watchdog.is_deaf()), None)


def test_bells_that_wait_in_vain_make_an_idle_worker_deaf(watchdog: Watchdog) -> None:
    assert looks_until_deaf(watchdog) == IN_VAIN + 1


def test_one_bell_heard_begins_it_anew(watchdog: Watchdog) -> None:
    assert looks_until_deaf(watchdog, IN_VAIN) is None
    state.all_total_count[0] += 1
    assert looks_until_deaf(watchdog) == IN_VAIN + 2


def test_a_worker_that_is_busy_may_be_so_as_long_as_its_limits_say(watchdog: Watchdog) -> None:
    state.reserved_requests.add(object())
    assert looks_until_deaf(watchdog) == IN_VAIN + LONGEST + 1


def test_one_whose_loop_stands_still_is_not_busy(watchdog: Watchdog, monkeypatch: pytest.MonkeyPatch) -> None:
    state.reserved_requests.add(object())
    monkeypatch.setattr(Pulse, "beating", False)
    assert looks_until_deaf(watchdog) == IN_VAIN + 1


def test_without_bells_nobody_is_deaf(watchdog: Watchdog, store: Any) -> None:
    assert looks_until_deaf(watchdog, IN_VAIN) is None
    store.delete(TAG + "preprocess")
    assert looks_until_deaf(watchdog) is None


@pytest.mark.parametrize(
    "why", ["it connects again", "its child starts", "an operator took its queue away", "the store is away"]
)
def test_who_should_hear_nothing_is_not_deaf(watchdog: Watchdog, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if why == "it connects again":
        watchdog.pause()
    elif why == "its child starts":
        watchdog._children.starting = lambda: True  # type: ignore[method-assign]
    elif why == "its queue was taken away":
        watchdog.listen(consumer())
    else:

        def away(*_: object) -> None:
            raise StoreConnectionError

        monkeypatch.setattr(fakeredis.FakeRedis, "llen", away)
    assert looks_until_deaf(watchdog) is None


def test_a_worker_that_does_not_stop_is_ended_with_its_children() -> None:
    ended, codes = threading.Event(), []
    child_process = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])

    def end(code: int) -> None:
        codes.append(code)
        ended.set()

    last_resort(0.01, lambda: [child_process.pid], end)
    assert child_process.wait(30) == -signal.SIGKILL
    assert ended.wait(30)
    assert codes == [1]
