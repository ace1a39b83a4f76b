"""Processes that tests start, and waiting for what they do."""

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
from tenacity import retry, retry_if_not_exception_type, stop_after_delay, wait_fixed

from pipeline.service.entry_points import EntryPoint, command
from pipeline.stack.local import LocalStack


def eventually(check: Callable[[], object], *, within_s: float = 30) -> object:
    """The first truthy answer of ``check``; its last failure if there is none in time."""

    @retry(
        stop=stop_after_delay(within_s),
        wait=wait_fixed(0.05),
        retry=retry_if_not_exception_type(KeyboardInterrupt),
        reraise=True,
    )
    def ask() -> object:
        answer = check()
        assert answer, f"still {answer!r} after {within_s} s"
        return answer

    return ask()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def api_over(store_url: str, **environment: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """One more API process; its URL, and itself."""
    port = free_port()
    process = subprocess.Popen(
        command(EntryPoint.API, "--port", str(port)),
        env={**os.environ, "SCORELINE_STORE_URL": store_url, **environment},
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        eventually(lambda: httpx.get(f"{url}/readyz").status_code == 200)
        yield url, process
    finally:
        process.terminate()
        process.wait(20)


def another_api(stack: LocalStack, **environment: str) -> Iterator[str]:
    """One more API process over the stack's store; its URL."""
    for url, _ in api_over(stack.store_url, **environment):
        yield url


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


StartService = Callable[..., Service]


def become_ready(*services: Service) -> None:
    for service in services:
        eventually(lambda service=service: not service.ready(), within_s=60)
