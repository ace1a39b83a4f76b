"""The embedded server allocates with jemalloc where the machine has it, and serves without it."""

from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from bench.processes import start_store
from pipeline.stack import store_server

Mapped = Callable[[], bool]


@pytest.fixture
def maps_jemalloc(tmp_path: Path) -> Mapped:
    def start() -> bool:
        server, _ = start_store(tmp_path, "process")  # comes back once it answers
        try:
            return any("libjemalloc" in each.path for each in psutil.Process(server.pid).memory_maps())
        finally:
            server.terminate()
            server.wait()

    return start


def test_the_embedded_server_allocates_with_jemalloc_where_the_machine_has_it(maps_jemalloc: Mapped) -> None:
    assert maps_jemalloc() == (store_server.jemalloc() is not None)


def test_without_jemalloc_it_serves(maps_jemalloc: Mapped, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_server, "find_library", lambda name: None)
    assert not maps_jemalloc()
