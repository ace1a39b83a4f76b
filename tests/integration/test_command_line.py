"""The command line as operators and scripts use it: what it prints, and its exit codes."""

import csv
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import redis

from pipeline.ledger import keys
from pipeline.samples.credit_data import FEATURES, read_applications, split
from pipeline.settings import REPOSITORY, SHIPPED_MODELS
from tests.support.processes import eventually, free_port
from tests.support.requests import APPLICATION, submit

Cli = Callable[..., subprocess.CompletedProcess[str]]
SCORELINE = str(Path(sys.executable).parent / "scoreline")
ROWS = [application.features for application in split(read_applications()).held_out[:150]]


@pytest.fixture
def csv_file(tmp_path: Path) -> Path:
    path = tmp_path / "rows.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, FEATURES)
        writer.writeheader()
        writer.writerows(ROWS)
    return path


def test_submit_scores_a_csv_file_and_keeps_its_order(scoreline: Cli, csv_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    done = scoreline("submit", str(csv_file), "--model", "credit-default", "--wait", "--out", str(out), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"requests": 150, "states": {"succeeded": 150}}
    statuses = [json.loads(line) for line in out.read_text().splitlines()]
    ids = [status["request_id"] for status in statuses]
    assert ids == sorted(ids)
    assert all(status["state"] == "succeeded" for status in statuses)


def test_submit_without_waiting_returns_ids_that_can_be_asked_for(
    scoreline: Cli, csv_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    assert scoreline("submit", str(csv_file), "--model", "credit-default", "--out", str(out)).returncode == 0
    request_id = json.loads(out.read_text().splitlines()[-1])["request_id"]
    status = eventually(
        lambda: (s := json.loads(scoreline("status", request_id, "--json").stdout))["state"] == "succeeded" and s
    )
    assert status["request_id"] == request_id  # type: ignore[index]
    assert "succeeded" in scoreline("status", request_id).stdout


def test_submit_says_by_its_exit_code_that_a_row_did_not_succeed(scoreline: Cli, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in [APPLICATION, APPLICATION | {"Income": -5}]) + "\n")
    done = scoreline("submit", str(path), "--model", "credit-default", "--wait", "--json")
    assert (done.returncode, json.loads(done.stdout)["states"]) == (1, {"succeeded": 1, "invalid": 1})


def test_usage_errors_unknown_things_and_a_store_that_is_away_have_their_exit_codes(
    scoreline: Cli, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.jsonl"
    broken.write_text("{not json\n")
    text = tmp_path / "rows.txt"
    text.write_text("x")
    nobody = f"redis://127.0.0.1:{free_port()}/0"
    unknown = "01890000-0000-7000-8000-000000000000"
    cases = [
        (scoreline("submit"), 2, "Missing argument"),
        (scoreline("submit", str(broken), "--model", "credit-default"), 2, "line 1: not JSON"),
        (scoreline("submit", str(text), "--model", "credit-default"), 2, ".csv or .jsonl"),
        (scoreline("submit", str(broken), "--model", "nothing"), 4, "no model 'nothing' is released"),
        (scoreline("status", "nonsense"), 2, "is not a request id"),
        (scoreline("status", unknown), 4, "was kept for"),
        (scoreline("dead", "show", unknown), 4, "no dead letter"),
        (scoreline("stats", SCORELINE_STORE_URL=nobody), 3, "refused the connection"),
        (scoreline("status", unknown, SCORELINE_STORE_URL=nobody), 3, "refused the connection"),
        (scoreline("models", SCORELINE_MAX_ATEMPTS="3"), 2, "did you mean SCORELINE_MAX_ATTEMPTS"),
        (scoreline("worker", "nothing"), 2, "nothing"),
        (scoreline("up", "--durability", "everysec"), 2, "allowed: process, disk"),
    ]
    for done, code, said in cases:
        assert done.returncode == code, (done.args, done.stderr)
        assert said in done.stderr, (done.args, done.stderr)
        assert "Traceback" not in done.stderr


def test_models_and_stats_as_table_and_as_json(scoreline: Cli, http: httpx.Client) -> None:
    submit(http)
    assert "credit-default" in scoreline("models").stdout
    names = [model["name"] for model in json.loads(scoreline("models", "--json").stdout)["models"]]
    assert names == ["chaos-backed", "chaos-probe", "chaos-standin", "credit-default", "credit-default-logistic"]
    table = scoreline("stats").stdout
    assert all(word in table for word in ("preprocess", "scoring", "postprocess", "waiting", "live", "durability"))
    assert set(json.loads(scoreline("stats", "--json").stdout)["stages"]) == {"preprocess", "scoring", "postprocess"}


def test_doctor_finds_a_good_stack_good(scoreline: Cli) -> None:
    done = scoreline("doctor", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(check["ok"] for check in json.loads(done.stdout))


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("appendfsync", "everysec", "acknowledges writes that it may lose"),
        ("maxmemory-policy", "allkeys-lru", "set it to noeviction"),
        ("appendonly", "no", "loses everything"),
    ],
)
def test_doctor_refuses_a_store_that_may_lose_requests(valkey: str, setting: str, value: str, said: str) -> None:
    store = redis.Redis.from_url(valkey)
    before = store.config_get(setting)[setting]
    store.config_set(setting, value)
    try:
        done = subprocess.run(
            [SCORELINE, "doctor", "--json"],
            check=False,
            capture_output=True,
            text=True,
            env={"PATH": "/bin", "SCORELINE_STORE_URL": valkey},
        )
    finally:
        store.config_set(setting, before)
    assert done.returncode == 1
    wrong = [check["detail"] for check in json.loads(done.stdout) if not check["ok"]]
    assert any(said in detail for detail in wrong), wrong


def test_doctor_says_that_the_stores_clock_went_back(valkey: str) -> None:
    store = redis.Redis.from_url(valkey)
    store.set(keys.OFFSET, 7_200_000)
    try:
        environment = {"PATH": "/bin", "SCORELINE_STORE_URL": valkey}
        done = subprocess.run(
            [SCORELINE, "doctor", "--json"], check=False, capture_output=True, text=True, env=environment
        )
    finally:
        store.delete(keys.OFFSET)
    assert done.returncode == 1
    (clock,) = [check for check in json.loads(done.stdout) if check["check"] == "clock"]
    assert not clock["ok"]
    assert "went back by 7200 s" in clock["detail"]


def test_doctor_without_a_store_says_what_to_do() -> None:
    environment = {"PATH": "/bin", "SCORELINE_STORE_URL": f"redis://127.0.0.1:{free_port()}/0", "COLUMNS": "200"}
    done = subprocess.run([SCORELINE, "doctor"], check=False, capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    assert "set SCORELINE_STORE_URL" in done.stdout


def test_up_writes_its_ready_file_serves_drains_and_leaves_nothing_running(tmp_path: Path) -> None:
    ready, data = tmp_path / "ready.json", tmp_path / "data"
    port = free_port()
    command = [SCORELINE, "up", "--data-dir", str(data), "--ready-file", str(ready), "--port", str(port)]
    up = subprocess.Popen(
        [*command, "--durability", "disk", "--scoring-workers", "2"],
        stdout=subprocess.PIPE,
        text=True,
        env={"PATH": os.environ["PATH"], "COLUMNS": "200"},
    )
    try:
        eventually(ready.exists, within_s=90)
        assert stat.S_IMODE(ready.stat().st_mode) == 0o600
        document = json.loads(ready.read_text())
        assert set(document) == {
            "api_url", "flower_url", "flower_user", "flower_password", "store_url", "data_dir", "pids",
        }  # fmt: skip
        assert document["api_url"] == f"http://127.0.0.1:{port}"
        assert {"store", "preprocess", "scoring-1", "scoring-2", "postprocess", "sweeper", "api", "flower"} <= set(
            document["pids"]
        )
        with httpx.Client(base_url=document["api_url"], timeout=40) as http:
            request_id = submit(http).json()["request_id"]
            assert http.get("/v1/stats").json()["durability"] == "disk"
        again = subprocess.run(
            [SCORELINE, "up", "--data-dir", str(data)], check=False, capture_output=True, text=True, timeout=60
        )
        assert again.returncode == 1
        assert "in use by another stack" in again.stderr
        taken = subprocess.run(
            [SCORELINE, "up", "--port", str(port)], check=False, capture_output=True, text=True, timeout=60
        )
        assert (taken.returncode, "a port is taken" in taken.stderr) == (1, True)
    finally:
        up.send_signal(signal.SIGINT)
        printed, _ = up.communicate(timeout=90)
    assert up.returncode == 0
    assert f"{document['api_url']}/docs" in printed
    assert document["flower_password"] in printed
    assert not ready.exists()
    for pids in document["pids"].values():
        for pid in pids:
            assert not Path(f"/proc/{pid}").exists(), "nothing is left running"
    check_kept(data, request_id, tmp_path)


def check_kept(data: Path, request_id: str, tmp_path: Path) -> None:
    """The same data folder knows the request again."""
    ready = tmp_path / "again.json"
    up = subprocess.Popen(
        [SCORELINE, "up", "--data-dir", str(data), "--ready-file", str(ready)],
        stdout=subprocess.DEVNULL,
        env={"PATH": os.environ["PATH"]},
    )
    try:
        eventually(ready.exists, within_s=90)
        url = json.loads(ready.read_text())["api_url"]
        assert httpx.get(f"{url}/v1/scores/{request_id}").json()["state"] == "succeeded"
    finally:
        up.send_signal(signal.SIGTERM)
        assert up.wait(90) == 0


def test_what_up_has_started_stops_though_up_is_killed(tmp_path: Path) -> None:
    ready = tmp_path / "ready.json"
    up = subprocess.Popen(
        [SCORELINE, "up", "--data-dir", str(tmp_path / "data"), "--ready-file", str(ready)],
        stdout=subprocess.DEVNULL,
        env={"PATH": os.environ["PATH"]},
    )
    try:
        eventually(ready.exists, within_s=90)
    finally:
        up.kill()
        up.wait()
    pids = [pid for pids in json.loads(ready.read_text())["pids"].values() for pid in pids]
    assert pids
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), within_s=60)


def test_demo_scores_every_held_out_application(tmp_path: Path) -> None:
    done = subprocess.run(
        [SCORELINE, "demo", "--json"], check=False, capture_output=True, text=True, timeout=170, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["requests"], document["succeeded"], document["dead"]) == (891, 891, 0)
    assert document["auc"] >= 0.82
    assert set(document["latency_ms"]) == {"p50", "p99"}


def test_train_demo_makes_the_artifact_again(tmp_path: Path) -> None:
    done = subprocess.run(
        [SCORELINE, "train-demo", "--out", str(tmp_path), "--json"], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    metrics = json.loads(done.stdout)
    shipped = json.loads((SHIPPED_MODELS / "credit-default" / "1" / "manifest.json").read_text())
    assert metrics["mlp"]["auc"] == pytest.approx(shipped["metrics"]["mlp"]["auc"], abs=0.01)
    for measured in (metrics, shipped["metrics"]):
        mlp, reference = measured["mlp"], measured["logistic_regression"]
        assert mlp["auc"] >= 0.82
        assert mlp["brier"] <= reference["brier"]
        assert mlp["ece"] <= reference["ece"]
    made = json.loads((tmp_path / "credit-default" / "1" / "manifest.json").read_text())
    assert made["input_schema"] == shipped["input_schema"]
    encodings = [folder / "credit-default" / "1" / "preprocess.json" for folder in (tmp_path, SHIPPED_MODELS)]
    again, before = (json.loads(file.read_text())["columns"] for file in encodings)
    # The last digit of a sum is the processor's.
    nearly = [{name: pytest.approx(it) if isinstance(it, float) else it for name, it in one.items()} for one in before]
    assert again == nearly
    assert not {"Age", "Marital"} & set(made["features"])


def test_the_benchmark_still_runs() -> None:
    # The kernel counts CPU in ticks of 10 ms: a round of bare lists must take some of them.
    measure = [SCORELINE, "bench", "--rounds", "1", "--scale", "0.1", "--json", "--no-goals"]
    done = subprocess.run(measure, check=False, capture_output=True, text=True, timeout=170, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    names = ["chain", "floor", "submit_many", "coroutines-256", "coroutines-64", "http-64", "http-batch-64"]
    assert [row["name"] for row in document["rows"]] == [*names, "http-cached-64", "light-20/s", "half-load"]
    assert all(row["requests_per_s"] > 0 and row["cpu_us_per_request"] > 0 for row in document["rows"])
    assert all(row["goals"] for row in document["rows"][2:])


@pytest.mark.parametrize(
    ("part", "figures"),
    [
        ("stage", ["stage / bare loop", "grouped / as they come"]),
        ("poison", ["p99 of the others, with poison / without"]),
    ],
)
def test_the_benchmark_of_the_scoring_stage_still_runs(part: str, figures: list[str]) -> None:
    least = ["--rounds", "1", "--seconds", "1", "--backlog", "512", "--longest", "24"]
    command = [SCORELINE, "bench", "--scoring", "--only", part, *least, "--json", "--no-goals"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)[part]
    assert [name for name, each in found.items() if isinstance(each, dict) and "met" in each] == figures
    assert all(found[name]["found"] > 0 for name in figures)
    assert found.get("others_that_did_not_succeed", 0) == 0
