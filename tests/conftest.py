"""Real parts for the tests: a Valkey server, and whole stacks of real processes."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import redis
from hypothesis import settings as hypothesis_settings
from tenacity import retry, retry_if_not_exception_type, stop_after_delay, wait_fixed

from pipeline.service.entry_points import EntryPoint, command
from pipeline.settings import Settings, read_settings
from pipeline.stack.local import LocalStack
from pipeline.worker.devices.nvml import NoDriver, find
from tests.servers import EMBEDDED, SERVERS, command_of

REPOSITORY = Path(__file__).parent.parent
BELL_S = 2.0
"""How long a bell is answered at most, in the shared stack: tests that look at jobs wait for that."""

# Each run of a commit tries the same cases, so that it passes or fails by what changed, not by chance.
# To look for new ones: pytest --hypothesis-profile=explore
hypothesis_settings.register_profile("same", derandomize=True)
hypothesis_settings.register_profile("explore", max_examples=2000)
hypothesis_settings.load_profile("same")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--server", default=EMBEDDED, choices=list(SERVERS), help="what the `valkey` fixture starts")


def _gpu_is_there() -> bool:
    """Whether there is a GPU, and a torch that can use it."""
    try:
        if not find():
            return False
    except NoDriver:
        return False
    import torch  # noqa: PLC0415 - it takes seconds: only where there is a driver

    return torch.cuda.is_available()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what needs a GPU where there is none; the closing line counts it as deselected."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and not _gpu_is_there():
        items[:] = [item for item in items if item not in marked]
        config.hook.pytest_deselected(items=marked)


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


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[str]:
    """URL of a real server of this test run: the embedded Valkey, or what ``--server`` names."""
    port = free_port()
    command = command_of(pytestconfig.getoption("server"), port, tmp_path_factory.mktemp("valkey"))
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    url = f"redis://127.0.0.1:{port}/0"
    eventually(lambda: redis.Redis.from_url(url).ping())
    yield url
    process.terminate()
    process.wait()


@pytest.fixture
def operator(valkey: str) -> Iterator[redis.Redis]:
    """A client of an empty server that may do anything, and gives text."""
    client = redis.Redis.from_url(valkey, decode_responses=True)
    client.flushall()
    yield client
    client.close()


@pytest.fixture
def settings() -> Settings:
    return read_settings({})


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """A whole stack of real processes, with the model that fails on demand; shared, so tests use their own ids."""
    folder = tmp_path_factory.mktemp("stack")
    environment = {
        "SCORELINE_BACKOFF_BASE_S": "0.05",
        "SCORELINE_SOFT_LIMIT_S": "3",
        "SCORELINE_HARD_LIMIT_S": "5",
        "SCORELINE_BELL_S": str(BELL_S),
    }
    with LocalStack(read_settings({}), data_dir=folder, chaos_model=True, environment=environment) as running:
        yield running


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


@pytest.fixture
def http(stack: LocalStack) -> Iterator[httpx.Client]:
    """A client whose requests are all computed: the tests share few inputs. test_same_input.py has the others."""
    with httpx.Client(base_url=stack.api_url, timeout=40, headers={"Cache-Control": "no-cache"}) as client:
        yield client


@pytest.fixture
def supervise(stack: LocalStack) -> Iterator[Callable[[str, str], None]]:
    """Stop and start one service of the stack, as an operator would with supervisorctl."""
    stopped: set[str] = set()

    def call(what: str, name: str) -> None:
        command = [sys.executable, "-m", "supervisor.supervisorctl", "-c", str(stack.data_dir / "supervisord.conf")]
        subprocess.run([*command, what, f"services:{name}"], check=True, capture_output=True)
        (stopped.add if what == "stop" else stopped.discard)(name)

    yield call
    for name in list(stopped):
        call("start", name)


@pytest.fixture
def scoreline(stack: LocalStack) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command line against the stack."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(Path(sys.executable).parent / "scoreline"), *arguments],
            capture_output=True,
            check=False,
            text=True,
            timeout=120,
            env={
                "PATH": "/usr/bin:/bin",
                "COLUMNS": "160",
                "SCORELINE_STORE_URL": stack.store_url,
                "SCORELINE_MODEL_STORE": str(stack.settings.model_store),
                **environment,
            },
        )

    return run
