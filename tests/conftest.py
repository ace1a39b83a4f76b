"""Real parts for the tests: a Valkey server, and whole stacks of real processes."""

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import fakeredis
import httpx
import pytest
import redis
from hypothesis import settings as hypothesis_settings

from chaos.legend_check import breaches
from pipeline.settings import Settings, read_settings
from pipeline.stack.local import LocalStack
from pipeline.store.connection import connect, connect_async
from pipeline.worker.devices.nvml import NoDriver, find
from tests.support.ledger import Ledger, LedgerMaker, denied, restricted
from tests.support.processes import eventually, free_port
from tests.support.servers import EMBEDDED, SERVERS, command_of
from tests.support.stacks import BELL_S

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


@pytest.fixture(params=["fakeredis", "valkey"])
def make_ledger(request: pytest.FixtureRequest) -> Iterator[LedgerMaker]:
    """Make a ledger with other settings, on an empty server."""
    with asyncio.Runner() as runner:

        def make(**environment: str) -> Ledger:
            values = {f"SCORELINE_{name.upper()}": value for name, value in environment.items()}
            if request.param == "fakeredis":
                server = fakeredis.FakeServer(server_type="valkey")
                client, async_client = fakeredis.FakeRedis(server=server), fakeredis.FakeAsyncRedis(server=server)
                ledgers.append(Ledger(client, async_client, client, async_client, read_settings(values), runner))
                return ledgers[-1]
            url = request.getfixturevalue("valkey")
            operator = redis.Redis.from_url(url, decode_responses=True)
            operator.flushall()
            settings = read_settings(values | {"SCORELINE_STORE_URL": url})
            own = settings.model_copy(update={"store_url": restricted(operator, settings)})
            clients = connect(settings, extra_wait_s=2), connect_async(settings)
            ledger = Ledger(*clients, connect(own, extra_wait_s=2), connect_async(own), settings, runner)
            operators.append(operator)
            ledgers.append(ledger)
            return ledger

        operators: list[redis.Redis] = []
        ledgers: list[Ledger] = []
        yield make
        if ledgers and request.node.get_closest_marker("spoils"):
            ledgers[-1].scrub()
        if ledgers:  # each is on an empty server: what is stored is the last one's
            assert runner.run(breaches(ledgers[-1].async_client, all_ended=False)) == [], "see legend.py"
        for operator in operators:
            assert denied(operator) == set(), "what no list of rights names"
