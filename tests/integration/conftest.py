"""Services started one by one, over a store that a test has prepared."""

import asyncio
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from chaos.legend_check import breaches
from pipeline.service.entry_points import EntryPoint, command
from pipeline.settings import Settings
from pipeline.stack.local import LocalStack
from pipeline.store.connection import connect_async
from tests.conftest import REPOSITORY, eventually, free_port

FEATURES = {"Seniority": 9, "Home": "rent", "Time": 60, "Records": "no", "Job": "freelance", "Expenses": 73}


@dataclass
class Service:
    """One process of ours, what it has said, and where its health is asked."""

    process: subprocess.Popen[bytes]
    log: Path
    url: str

    def ready(self) -> str:
        """What speaks against it; nothing if it is ready."""
        try:
            answer = httpx.get(f"{self.url}/readyz", timeout=10)
        except httpx.HTTPError as error:
            return repr(error)
        return "" if answer.status_code == 200 else answer.text

    def said(self) -> str:
        return self.log.read_text()


@pytest.fixture(autouse=True)
def legend(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test, what is in the shared stack's store agrees with the legend of keys."""
    shared: LocalStack | None = request.getfixturevalue("stack") if "stack" in request.fixturenames else None
    yield
    if shared:
        assert asyncio.run(_breaches(shared.settings)) == [], "see pipeline/ledger/legend.py"


async def _breaches(settings: Settings) -> list[str]:
    client = connect_async(settings)
    try:
        return await breaches(client, all_ended=False)
    finally:
        await client.aclose()


StartService = Callable[..., Service]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[StartService]:
    """Start ``api``, ``sweeper`` or a stage's worker over a store; all are ended after the test."""
    started: list[Service] = []

    def begin(name: str, store_url: str, **environment: str) -> Service:
        port, log = free_port(), tmp_path / f"{name}-{len(started)}.log"
        commands = {
            "api": command(EntryPoint.API, "--port", str(port)),
            "sweeper": command(EntryPoint.SWEEPER, "--health-port", str(port)),
        }
        process = subprocess.Popen(
            commands.get(name, command(EntryPoint.WORKER, name, "--health-port", str(port))),
            env={**os.environ, "SCORELINE_STORE_URL": store_url, **environment},
            cwd=REPOSITORY,
            stdout=log.open("wb"),
            stderr=subprocess.STDOUT,
        )
        started.append(Service(process, log, f"http://127.0.0.1:{port}"))
        return started[-1]

    yield begin
    for service in started:
        service.process.terminate()
    for service in started:
        try:
            service.process.wait(20)
        except subprocess.TimeoutExpired:
            service.process.kill()
            service.process.wait()


def become_ready(*services: Service) -> None:
    for service in services:
        eventually(lambda service=service: not service.ready(), within_s=60)
