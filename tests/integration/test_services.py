"""The three stages as services: each can stop and come back, die, or be replaced, and nothing is lost."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import httpx
import psutil
import pytest
import redis

from pipeline.contracts.stages import Stage
from pipeline.ledger.keys import TAG
from pipeline.service.entry_points import EntryPoint, command
from pipeline.settings import REPOSITORY
from pipeline.stack.local import LocalStack
from tests.support.processes import eventually, free_port
from tests.support.requests import APPLICATION, live, submit
from tests.support.stacks import child_of, pid_of


@pytest.mark.parametrize("stage", list(Stage))
def test_a_stage_can_stop_alone_and_work_waits_for_it(
    http: httpx.Client, stack: LocalStack, supervise: Callable[[str, str], None], stage: Stage
) -> None:
    others = {other: pid_of(stack, other) for other in Stage if other is not stage}
    supervise("stop", stage)
    eventually(lambda: stage not in live(http))
    accepted = [submit(http, wait=0).json()["request_id"] for _ in range(3)]
    eventually(lambda: http.get("/v1/stats").json()["stages"][stage]["waiting"] == 3)
    assert {other: pid_of(stack, other) for other in others} == others, "the others do not notice"
    supervise("start", stage)
    for request_id in accepted:
        ended = http.get(f"/v1/scores/{request_id}", params={"wait": 30}).json()
        assert ended["state"] == "succeeded"


@pytest.mark.parametrize("stage", list(Stage))
def test_a_killed_worker_is_replaced_and_its_requests_end(http: httpx.Client, stack: LocalStack, stage: Stage) -> None:
    before = pid_of(stack, stage)
    for process in [psutil.Process(before), *psutil.Process(before).children(recursive=True)]:
        process.kill()
    ended = submit(http).json()
    assert (ended["state"], ended["attempts"]) == ("succeeded", 1)
    eventually(lambda: pid_of(stack, stage) != before)
    eventually(lambda: stage in live(http))


def test_a_child_killed_over_its_batch_is_charged_and_its_request_ends(http: httpx.Client, stack: LocalStack) -> None:
    probe = {"model": "chaos-probe", "features": {"x": 0, "do": "slow", "seconds": 1}}
    request_id = http.post("/v1/scores", json=probe).json()["request_id"]
    eventually(lambda: http.get("/v1/stats").json()["stages"]["scoring"]["claimed"] == 1)
    child_of(stack, Stage.SCORING).kill()
    ended = http.get(f"/v1/scores/{request_id}", params={"wait": 30}).json()
    assert (ended["state"], ended["attempts"]) == ("succeeded", 2)


def test_a_worker_that_gets_term_finishes_what_it_has_begun(http: httpx.Client, stack: LocalStack) -> None:
    probe = {"model": "chaos-probe", "features": {"x": 0, "do": "slow", "seconds": 1}}
    request_id = http.post("/v1/scores", json=probe).json()["request_id"]
    eventually(lambda: http.get("/v1/stats").json()["stages"]["scoring"]["claimed"] == 1)
    os.kill(pid_of(stack, "scoring"), signal.SIGTERM)
    ended = http.get(f"/v1/scores/{request_id}", params={"wait": 30}).json()
    assert (ended["state"], ended["attempts"]) == ("succeeded", 1)
    eventually(lambda: "scoring" in live(http))


def test_deleted_bells_are_found(http: httpx.Client, stack: LocalStack, supervise: Callable[[str, str], None]) -> None:
    supervise("stop", Stage.PREPROCESS)
    eventually(lambda: Stage.PREPROCESS not in live(http))
    request_id = submit(http, wait=0).json()["request_id"]
    redis.Redis.from_url(stack.store_url).delete(f"{TAG}preprocess")
    supervise("start", Stage.PREPROCESS)
    assert http.get(f"/v1/scores/{request_id}", params={"wait": 30}).json()["state"] == "succeeded"


def test_a_pickle_in_the_queue_is_refused_and_work_goes_on(http: httpx.Client, stack: LocalStack) -> None:
    client = redis.Redis.from_url(stack.store_url)
    bell = (REPOSITORY / "pipeline" / "ledger" / "bell.json").read_bytes()
    marker = stack.data_dir / "pickle-was-run"
    payload = f"cos\\nsystem\\n(S'touch {marker}'\\ntR."
    pickled = bell.replace(b"application/json", b"application/x-python-serialize").replace(
        b'[[\\"__LANE__\\"], {}, {\\"callbacks\\": null, \\"errbacks\\": null, \\"chain\\": null, \\"chord\\": null}]',
        payload.encode(),
    )
    assert pickled != bell
    client.lpush(f"{TAG}preprocess", pickled.replace(b"__STAGE__", b"preprocess").replace(b"__NUMBER__", b"0"))
    client.lpush(f"{TAG}preprocess", b"not a message at all")
    assert submit(http).json()["state"] == "succeeded"
    assert not marker.exists()


def test_a_scoring_worker_alone_holds_torch(stack: LocalStack) -> None:
    def has_torch(pid: int) -> bool:
        return any("libtorch" in mapped.path for mapped in psutil.Process(pid).memory_maps())

    parents = [pid_of(stack, name) for name in ("preprocess", "postprocess", "api", "sweeper")]
    children = [child_of(stack, stage).pid for stage in (Stage.PREPROCESS, Stage.POSTPROCESS)]
    assert not any(has_torch(pid) for pid in parents + children)
    assert has_torch(child_of(stack, Stage.SCORING).pid)


def test_a_process_whose_loop_hangs_is_replaced(http: httpx.Client, stack: LocalStack) -> None:
    before = pid_of(stack, "sweeper")
    os.kill(before, signal.SIGSTOP)
    eventually(lambda: stack.ready_document()["pids"].get("sweeper", [before]) != [before], within_s=60)
    assert submit(http).json()["state"] == "succeeded"


def test_flower_shows_the_three_services_with_readable_names_and_no_data(http: httpx.Client, stack: LocalStack) -> None:
    with httpx.Client(base_url=stack.flower_url, auth=(stack.flower_user, stack.flower_password)) as flower:
        assert httpx.get(f"{stack.flower_url}/api/tasks").status_code == 401

        def whole() -> list[dict]:
            """Tasks of which Flower has seen everything: it may have come in the middle of one."""
            submit(http)
            tasks = flower.get("/api/tasks", params={"limit": 1000}).json().values()
            return [task for task in tasks if task["state"] == "SUCCESS" and task["received"]]

        def of_each_stage() -> list[dict]:
            tasks = whole()
            return tasks if {task["name"] for task in tasks} >= {f"{stage}.run" for stage in Stage} else []

        done = cast(list[dict], eventually(of_each_stage))
        models = [f"{each['name']}@{each['version']}" for each in http.get("/v1/models").json()["models"]]
        assert {task["args"] for task in done} <= {f"{stage}/{model}" for stage in Stage for model in models}
        assert all("largest_batch" in task["result"] for task in done), "batch sizes stand in the result"
        workers = flower.get("/workers", params={"json": 1}).json()["data"]
        assert {worker["hostname"].split("-")[0] for worker in workers} >= set(Stage)


def test_a_worker_runs_from_its_own_start_command_with_a_health_port(stack: LocalStack) -> None:
    port = free_port()
    scoreline = Path(sys.executable).parent / "scoreline"
    environment = {**os.environ, "SCORELINE_STORE_URL": stack.store_url}
    worker = subprocess.Popen(
        [scoreline, "worker", "postprocess", "--health-port", str(port)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=stack.data_dir,
    )
    try:
        eventually(lambda: httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200)
        assert httpx.get(f"http://127.0.0.1:{port}/livez").status_code == 200
        assert httpx.get(f"http://127.0.0.1:{port}/else").status_code == 404
    finally:
        worker.terminate()
        assert worker.wait(30) == 0


def test_a_worker_whose_child_cannot_start_ends_instead_of_failing_bells(stack: LocalStack, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('no torch on this machine')")
    environment = {
        **os.environ,
        "SCORELINE_STORE_URL": stack.store_url,
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(REPOSITORY)]),
    }
    start = command(EntryPoint.WORKER, "scoring", "--pool", "elsewhere")
    worker = subprocess.run(start, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert "child_not_started" in worker.stderr + worker.stdout
    assert "no torch on this machine" in worker.stderr + worker.stdout


DEAF = """
import sys, kombu.transport.redis, tasks.watchdog
kombu.transport.redis.Channel._brpop_start = lambda *_, **__: None  # it never asks for a message
tasks.watchdog.DEAF_S = 2.0
sys.argv = ["worker", "scoring", "--pool", "deaf"]
import tasks.__main__
"""


def test_a_worker_that_hears_no_bell_ends_and_says_why(stack: LocalStack) -> None:
    environment = {**os.environ, "SCORELINE_STORE_URL": stack.store_url}
    with redis.Redis.from_url(stack.store_url) as store:
        store.lpush(TAG + "scoring.deaf", b"a bell")
        worker = subprocess.run(
            [sys.executable, "-c", DEAF], env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert store.delete(TAG + "scoring.deaf") == 1
    assert worker.returncode == 1
    assert "worker_deaf" in worker.stderr + worker.stdout
    assert "most recent call first" in worker.stderr, "the stacks say where it stands"


def test_what_scoring_has_done_is_not_done_again(
    http: httpx.Client, stack: LocalStack, supervise: Callable[[str, str], None]
) -> None:
    """A request whose worker dies in postprocess goes on from scoring's output."""

    def rows_run() -> int:
        return http.get("/v1/stats").json()["model_runs"].get("credit-default@1", 0)

    before = rows_run()
    supervise("stop", "postprocess")
    accepted = [submit(http, wait=0).json()["request_id"] for _ in range(3)]
    eventually(lambda: http.get("/v1/stats").json()["stages"]["postprocess"]["waiting"] == 3)
    supervise("start", "postprocess")
    child_of(stack, Stage.POSTPROCESS).kill()
    for request_id in accepted:
        assert http.get(f"/v1/scores/{request_id}", params={"wait": 30}).json()["state"] == "succeeded"
    assert rows_run() - before == 3


def test_a_second_sweeper_takes_over(
    http: httpx.Client, stack: LocalStack, supervise: Callable[[str, str], None]
) -> None:
    port = free_port()
    second = subprocess.Popen(
        [Path(sys.executable).parent / "scoreline", "sweeper", "--health-port", str(port)],
        env={**os.environ, "SCORELINE_STORE_URL": stack.store_url},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        eventually(lambda: httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200)
        psutil.Process(pid_of(stack, "sweeper")).kill()
        supervise("stop", "sweeper")
        supervise("stop", "preprocess")
        # Nobody but a sweeper can end this one.
        answer = submit(http, timeout_s=0.3)
        assert (answer.status_code, answer.json()["type"]) == (408, "urn:scoreline:problem:deadline-exceeded")
    finally:
        second.terminate()
        assert second.wait(20) == 0


def test_an_accepted_request_survives_the_death_of_the_store(http: httpx.Client, stack: LocalStack) -> None:
    probe = {"model": "chaos-probe", "features": {"x": 0, "do": "slow", "seconds": 1}}
    accepted = [http.post("/v1/scores", json=probe).json()["request_id"] for _ in range(3)]
    psutil.Process(pid_of(stack, "store")).kill()

    def ended(request_id: str) -> bool:
        answer = http.get(f"/v1/scores/{request_id}")
        return answer.status_code == 200 and answer.json()["state"] == "succeeded"

    for request_id in accepted:
        eventually(lambda request_id=request_id: ended(request_id), within_s=60)
    assert submit(http, features=APPLICATION).json()["state"] == "succeeded"


def test_a_store_that_is_away_is_a_problem_not_a_hang(http: httpx.Client, stack: LocalStack) -> None:
    store = psutil.Process(pid_of(stack, "store"))
    store.suspend()
    try:
        began = time.monotonic()
        answer = http.get("/v1/stats")
        assert (answer.status_code, answer.json()["type"]) == (503, "urn:scoreline:problem:store-unavailable")
        assert int(answer.headers["Retry-After"]) >= 1
        assert time.monotonic() - began < 10, "it came back by itself"
    finally:
        store.resume()
    eventually(lambda: http.get("/readyz").status_code == 200)
    assert eventually(lambda: submit(http, wait=30).json().get("state") == "succeeded")
