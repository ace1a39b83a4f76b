"""Workers on devices that fall sick: real worker processes, and a stand-in for the driver's library that says so."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from pipeline.stack.local import LocalStack
from pipeline.worker.devices.watch import EX_DRAIN
from tests.conftest import eventually, free_port
from tests.integration.test_failures import end_of, probe

GPU = {
    "name": "Stub 80GB", "uuid": "GPU-stub-0", "memory": [8 << 30, 80 << 30], "utilisation": 40, "temperature": 51,
    "throttle": 0, "ecc": 0, "remapped": [0, 0, 0, 0], "recovery_action": 0, "xids": [],
}  # fmt: skip
Cli = Callable[..., subprocess.CompletedProcess[str]]


class Node:
    """One more scoring worker, on a machine whose driver says what it is told to say."""

    def __init__(self, stack: LocalStack, folder: Path, *gpus: dict, device: str = "auto") -> None:
        self.folder = folder
        self.health = f"http://127.0.0.1:{(port := free_port())}"
        self.say(*gpus)
        self.log = folder / "worker.log"
        self.process = subprocess.Popen(
            [Path(sys.executable).parent / "scoreline", "worker", "scoring", "--health-port", str(port)],
            env={
                **os.environ,
                "SCORELINE_STORE_URL": stack.store_url,
                "SCORELINE_MODEL_STORE": str(stack.settings.model_store),
                "SCORELINE_CHAOS_MODEL": "true",
                "SCORELINE_FAILPOINTS": str(folder),
                "SCORELINE_DEVICE": device,
            },
            stdout=self.log.open("wb"),
            stderr=subprocess.STDOUT,
        )

    def say(self, *gpus: dict) -> None:
        whole = self.folder / ".nvml"
        whole.write_text(json.dumps({"gpus": gpus}))
        whole.replace(self.folder / "nvml.json")

    def ready(self) -> bool:
        try:
            return httpx.get(f"{self.health}/readyz").status_code == 200
        except httpx.HTTPError:
            return False

    def end(self) -> None:
        if self.process.poll() is None:
            for process in [*psutil.Process(self.process.pid).children(recursive=True)]:
                process.kill()
            self.process.kill()
        self.process.wait()


Start = Callable[..., Node]


@pytest.fixture
def start(stack: LocalStack, tmp_path: Path) -> Iterator[Start]:
    nodes: list[Node] = []

    def begin(*gpus: dict, device: str = "auto") -> Node:
        folder = tmp_path / str(len(nodes))
        folder.mkdir()
        nodes.append(Node(stack, folder, *gpus, device=device))
        return nodes[-1]

    yield begin
    for node in nodes:
        node.end()


def devices(http: httpx.Client) -> dict[str, dict]:
    workers = http.get("/v1/stats").json()["workers"]
    return {
        worker["device"]: worker for worker in workers if worker["stage"] == "scoring" and worker["state"] == "live"
    }


@pytest.fixture
def alone(stack: LocalStack) -> Iterator[None]:
    """The stack's own scoring worker stands still meanwhile."""
    command = [sys.executable, "-m", "supervisor.supervisorctl", "-c", str(stack.data_dir / "supervisord.conf")]
    subprocess.run([*command, "stop", "services:scoring"], check=True, capture_output=True)
    yield
    subprocess.run([*command, "start", "services:scoring"], check=True, capture_output=True)


def test_operators_see_what_the_driver_and_the_canary_say(http: httpx.Client, start: Start, scoreline: Cli) -> None:
    node = start(GPU | {"temperature": 88, "throttle": 64})
    eventually(node.ready)
    eventually(lambda: "cuda:0" in devices(http) and devices(http)["cuda:0"]["health"]["canary_ms"])
    health = devices(http)["cuda:0"]["health"]
    assert (health["name"], health["temperature"], health["state"]) == ("Stub 80GB", 88, "suspect")
    listed = {one["device"]: one for one in json.loads(scoreline("devices", "--json").stdout)["devices"]}
    assert listed["cuda:0"]["reasons"] == ["slowed down: thermal, by hardware"]
    assert listed["cpu"]["state"] == "healthy"
    table = scoreline("devices").stdout
    assert all(text in table for text in ("Stub 80GB", "suspect", "8.0/80 GiB", "88 °C", "slowed down"))
    assert "runs_on_cpu" in node.log.read_text(), "this torch has no CUDA, and the worker says so"


def test_a_sick_device_is_left_with_nothing_lost_and_nothing_charged(
    http: httpx.Client, start: Start, alone: None, stack: LocalStack
) -> None:
    node = start(GPU)
    eventually(node.ready)
    rows = [probe("slow", seconds=2) for _ in range(8)] + [probe("ok") for _ in range(200)]
    results = http.post("/v1/scores/batch", json={"requests": rows}).json()["results"]
    eventually(lambda: devices(http)["cuda:0"]["in_flight"])
    node.say(GPU | {"xids": [79]})
    assert node.process.wait(20) == EX_DRAIN
    assert not node.ready()
    assert "Xid 79" in node.log.read_text()
    assert "cuda:0" not in devices(http)
    other = start(GPU)  # another node goes on
    eventually(other.ready)
    ends = [end_of(http, row["score"]["request_id"], within_s=60) for row in results]
    assert {end["state"] for end in ends} == {"succeeded"}
    assert {end["attempts"] for end in ends} == {1}, "it was not their fault"


def test_a_worker_does_not_begin_on_a_sick_device(start: Start) -> None:
    node = start(GPU | {"recovery_action": 4})
    assert node.process.wait(30) == EX_DRAIN
    assert "drain and reset" in node.log.read_text()


def test_a_device_that_is_nearly_full_makes_its_worker_not_ready_until_there_is_room(start: Start) -> None:
    node = start(GPU | {"memory": [79 << 30, 80 << 30]})
    eventually(lambda: "the device's memory is 99% full" in _readyz(node))
    node.say(GPU)
    eventually(node.ready)


def _readyz(node: Node) -> str:
    try:
        return httpx.get(f"{node.health}/readyz").text
    except httpx.HTTPError:
        return ""


def test_a_device_that_is_not_there_is_an_error_that_says_what_to_do(start: Start) -> None:
    node = start(GPU, device="cuda:3")
    assert node.process.wait(30) == 1
    assert "there is no cuda:3: the driver knows 1 devices" in node.log.read_text()
    assert "set SCORELINE_DEVICE" in node.log.read_text()


def test_each_of_several_devices_has_a_worker_of_its_own(http: httpx.Client, start: Start) -> None:
    """One is drained, one is killed and comes back, and the third does not notice."""
    gpus = [GPU | {"uuid": f"GPU-stub-{number}"} for number in range(3)]
    node = start(*gpus)
    eventually(lambda: {"cuda:0", "cuda:1", "cuda:2"} <= devices(http).keys(), within_s=60)
    before = devices(http)
    node.say(gpus[0] | {"xids": [95]}, *gpus[1:])
    eventually(lambda: "cuda:0" not in devices(http))
    psutil.Process(before["cuda:1"]["pid"]).kill()
    eventually(lambda: devices(http).get("cuda:1", before["cuda:1"])["pid"] != before["cuda:1"]["pid"], within_s=60)
    assert devices(http)["cuda:2"]["pid"] == before["cuda:2"]["pid"]
    assert "cuda:0" not in devices(http), "who is drained is not started again"
    node.process.send_signal(signal.SIGTERM)
    assert node.process.wait(60) == 0
