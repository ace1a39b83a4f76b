"""What a health port says of the process behind it."""

import threading
from collections.abc import Iterator

import httpx
import pytest

from pipeline.health import HealthServer, Recent, ended
from tests.conftest import eventually


@pytest.fixture
def stays() -> Iterator[threading.Thread]:
    halt = threading.Event()
    thread = threading.Thread(target=halt.wait, name="heartbeat", daemon=True)
    thread.start()
    yield thread
    halt.set()
    thread.join()


def test_a_process_is_neither_live_nor_ready_once_one_of_its_threads_has_ended(stays: threading.Thread) -> None:
    release = threading.Event()
    dies = threading.Thread(target=release.wait, name="watchdog", daemon=True)
    not_begun = threading.Thread(target=print, name="standby")
    dies.start()
    threads = [stays, dies, not_begun]
    server = HealthServer(0, live=lambda: ended(threads), ready=lambda: ended(threads))
    try:
        assert httpx.get(f"http://127.0.0.1:{server.port}/livez").status_code == 200
        release.set()
        dies.join()
        for path in ("livez", "readyz"):
            answer = httpx.get(f"http://127.0.0.1:{server.port}/{path}")
            assert (answer.status_code, answer.text) == (503, "its watchdog has ended\n")
    finally:
        server.stop()


def test_a_check_is_made_once_however_many_ask_and_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def check() -> str:
        asked.append(1)
        return f"answer {len(asked)}"

    recent = Recent(check)
    assert {recent() for _ in range(10)} == {"answer 1"}
    monkeypatch.setattr(Recent, "HOLDS_S", 0.0)
    assert recent() == "answer 2"
    eventually(lambda: recent() != "answer 2")
