"""A thread that fails, ends or hangs speaks against its worker, by name and with the reason; none ends silently."""

import threading
import urllib.error
import urllib.request
from http.server import ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import fakeredis
import pytest

from pipeline.service.health import STUCK_S, HealthServer, Pulse
from pipeline.service.periodic import LONG_S, Duty, Periodic
from pipeline.settings import read_settings
from pipeline.worker.devices.health import Canary
from pipeline.worker.devices.watch import DeviceWatch
from pipeline.worker.heartbeat import Heartbeat
from pipeline.worker.incarnation import Incarnation
from tasks import worker
from tasks.standby import Standby
from tasks.watchdog import Watchdog
from tests.support.processes import eventually

SETTINGS = read_settings({"SCORELINE_EXPECTED_SCORING_WORKERS": "1"})


class Panic(BaseException):
    """No Exception."""


def failing(*_: object) -> None:
    raise LookupError("no such thing")


class Clock:
    """Time that passes when it is told to."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def answer(server: HealthServer, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=30) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as reply:
        return reply.code, reply.read().decode()


class Turns(Periodic):
    """Raises ``error`` while it has one."""

    def __init__(self, error: BaseException | None) -> None:
        super().__init__("turns", 0.001)
        self.error = error
        self.turned = 0

    def turn(self) -> None:
        self.turned += 1
        if self.error:
            raise self.error


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(1), Panic("no"), MemoryError("no")])
def test_no_error_ends_a_thread_and_it_is_known_until_a_turn_succeeds(error: BaseException) -> None:
    thread = Turns(error)
    thread.start()
    try:
        eventually(lambda: thread.turned > 2)
        assert thread.is_alive()
        assert thread.fault().startswith(f"turns fails: {type(error).__name__}")
        thread.error = None
        eventually(lambda: thread.fault() == "")
    finally:
        thread.stop()
    thread.join(30)
    assert (thread.is_alive(), thread.fault()) == (False, ""), "it was told to"


def test_a_thread_that_does_not_run_says_so() -> None:
    assert Turns(None).fault() == "turns does not run"


def test_what_has_not_come_back_for_long_is_known() -> None:
    clock, faults = Clock(), []
    duty = Duty("looking", clock)

    def act() -> None:
        clock.now += LONG_S - 1
        faults.append(duty.fault())
        clock.now += 2
        faults.append(duty.fault())

    duty.do(act)
    assert faults == ["", f"looking has not come back for {LONG_S + 1:.0f} s"]
    assert duty.fault() == ""


def test_only_what_fails_for_long_speaks_against_living_on() -> None:
    clock = Clock()
    duty = Duty("looking", clock)
    duty.do(failing)
    clock.now += 9
    duty.do(failing)
    assert (duty.fault(10), bool(duty.fault())) == ("", True)
    clock.now += 1
    assert duty.fault(10) == "looking fails: LookupError: no such thing"


def test_what_is_no_error_is_known_and_goes_on_its_way() -> None:
    """In a worker's event loop it is how Celery stops it."""
    duty = Duty("looking")

    def act() -> None:
        raise SystemExit(0)

    with pytest.raises(SystemExit):
        duty.do(act)
    assert duty.fault() == "looking fails: SystemExit: 0"


class Broken:
    """Whatever it is asked for, it fails in a way that nobody expects."""

    def __getattr__(self, name: str) -> Any:
        raise LookupError(f"no {name}")


def heartbeat() -> Periodic:
    thread = Heartbeat(Incarnation("preprocess", "preprocess", "cpu"), fakeredis.FakeRedis(), SETTINGS)
    thread._incarnation = Broken()  # type: ignore[assignment]
    return thread


def watchdog() -> Periodic:
    return Watchdog(fakeredis.FakeRedis(), "preprocess", SETTINGS, Pulse(), Broken())  # type: ignore[arg-type]


def device_watch() -> Periodic:
    thread = DeviceWatch(Incarnation("scoring", "scoring", "cpu"), None, lambda _: None)
    thread._worker = Broken()  # type: ignore[assignment]
    return thread


def standby() -> Periodic:
    return Standby(Incarnation("scoring", "scoring", "cpu"), "scoring", Broken(), SETTINGS)  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [heartbeat, watchdog, device_watch, standby])
def test_a_thread_that_fails_makes_its_worker_not_ready(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not live, if it goes on and the worker is no use without it."""
    thread: Periodic = make()
    thread.every_s = 0.001
    clock = Clock()
    thread._duty = Duty(thread.name, clock)
    watch = DeviceWatch(Incarnation("scoring", "scoring", "cpu"), None, lambda _: None)
    ready = SimpleNamespace(ready=True, canary=Canary())
    needed = make in (heartbeat, watchdog)
    groups = {"needed": [thread], "useful": []} if needed else {"needed": [], "useful": [thread]}
    server = worker._health(0, ready, Pulse(), watch, SETTINGS, **groups)  # type: ignore[arg-type]
    thread.start()
    try:
        eventually(lambda: answer(server, "/readyz")[0] == 503 and "fails" in answer(server, "/readyz")[1])
        assert answer(server, "/readyz")[1].startswith(f"{thread.name} fails: LookupError: no ")
        assert answer(server, "/livez")[0] == 200
        clock.now += STUCK_S + 1
        assert answer(server, "/livez")[0] == (503 if needed else 200)
    finally:
        thread.stop()
        server.stop()


def test_the_loops_own_duties_are_known_as_well() -> None:
    """What runs in the worker's event loop again and again: Celery's hub would only log what it raises."""
    calls: list[Any] = []
    hub = SimpleNamespace(call_repeatedly=lambda _, call, *arguments: calls.append((call, arguments)))
    bells = SimpleNamespace(channel=SimpleNamespace(refused=None))
    pool = SimpleNamespace(_pool=SimpleNamespace(_pool=[]))
    consumer = SimpleNamespace(hub=hub, pool=pool, task_consumer=bells)
    children = SimpleNamespace(meet=lambda _: None, watch=failing)
    dog = SimpleNamespace(listen=lambda _: None)
    step, duties = worker._make_step(children, dog, Pulse(), None, SETTINGS)  # type: ignore[arg-type]
    step.start(SimpleNamespace(), consumer)
    for call, arguments in calls:
        call(*arguments)
    assert [duty.fault() for duty in duties if duty.fault()] == [
        "the watch over its children fails: LookupError: no such thing"
    ]


def test_a_health_server_that_fails_serves_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.service.health.PAUSE_S", 0.0)
    failures = iter([OSError("no descriptors"), Panic("no")])
    failed = threading.Event()

    def live() -> str:
        return ""

    def ready() -> str:
        raise LookupError("what is ready?")

    serve_forever = ThreadingHTTPServer.serve_forever

    def fail_first(self: ThreadingHTTPServer) -> None:
        for error in failures:
            raise error
        failed.set()
        serve_forever(self)

    monkeypatch.setattr(ThreadingHTTPServer, "serve_forever", fail_first)
    server = HealthServer(0, live=live, ready=ready)
    try:
        assert failed.wait(30)
        assert answer(server, "/livez") == (200, "ok\n")
        assert answer(server, "/readyz") == (503, "the check fails: LookupError: what is ready?\n")
    finally:
        server.stop()
