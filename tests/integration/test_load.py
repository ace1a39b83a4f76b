"""``scoreline load``: requests that arrive at a rate, and what it says became of them."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from pipeline.contracts.stages import Stage
from pipeline.stack.local import LocalStack
from tests.support.processes import another_api, eventually, free_port

Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def full_api(stack: LocalStack) -> Iterator[str]:
    """An API that admits one unfinished request at a time."""
    yield from another_api(stack, SCORELINE_MAX_WAITING="1")


@pytest.fixture
def paused_scoring(stack: LocalStack) -> Iterator[None]:
    """Scoring stands still: what is accepted does not end."""
    pids = [pid for name, found in stack.ready_document()["pids"].items() if name == Stage.SCORING for pid in found]
    trees = [pid for pid in pids for pid in (pid, *_children(pid))]
    for pid in trees:
        os.kill(pid, signal.SIGSTOP)
    yield
    for pid in trees:
        os.kill(pid, signal.SIGCONT)


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("way", ["store", "api"])
def test_everything_offered_is_accepted_and_ends(scoreline: Cli, stack: LocalStack, way: str) -> None:
    to = ["--api", stack.api_url] if way == "api" else []
    done = scoreline("load", "--rate", "50", "--seconds", "2", "--json", *to)
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(done.stdout)
    assert document["offered"] == document["accepted"] > 50
    assert document["ended"] == {"succeeded": document["offered"]}
    assert (document["refused"], document["unknown"], document["lost"], document["unfinished"]) == ({}, 0, 0, 0)
    for name in ("latency_ms", "seen_ms", "send_lag_ms"):
        assert 0 <= document[name]["p50"] <= document[name]["p99"] <= document[name]["max"]
    assert document["goodput_per_s"] > 0


def test_the_same_seed_offers_the_same_arrivals(scoreline: Cli) -> None:
    runs = [
        json.loads(scoreline("load", "--rate", "40", "--seconds", "1", "--seed", seed, "--json").stdout)["offered"]
        for seed in ("5", "5", "6")
    ]
    assert runs[0] == runs[1] != runs[2]


def test_refusals_are_counted_by_their_reason_and_are_no_failure(scoreline: Cli, full_api: str) -> None:
    done = scoreline("load", "--rate", "300", "--seconds", "2", "--api", full_api, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(done.stdout)
    assert set(document["refused"]) == {"overloaded"}
    assert document["accepted"] + document["refused"]["overloaded"] == document["offered"]
    assert sum(document["ended"].values()) == document["accepted"] > 0


@pytest.mark.usefixtures("paused_scoring")
def test_what_runs_out_of_time_is_not_goodput(scoreline: Cli) -> None:
    done = scoreline("load", "--rate", "30", "--seconds", "1", "--timeout-s", "1", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(done.stdout)
    assert document["ended"]["expired"] > 0
    assert sum(document["ended"].values()) == document["accepted"] == document["offered"]
    assert document["p99_within_deadline"] is False
    assert document["goodput_per_s"] * document["seconds"] == pytest.approx(
        document["ended"].get("succeeded", 0), abs=1
    )


def test_the_table_says_it_to_a_tired_operator(scoreline: Cli, full_api: str) -> None:
    done = scoreline("load", "--rate", "100", "--seconds", "1", "--api", full_api)
    assert done.returncode == 0, done.stderr
    for words in ("100 requests/s of credit-default", "overloaded", "succeeded within their deadline", "p99"):
        assert words in done.stdout


def test_ctrl_c_ends_it_with_what_it_has(stack: LocalStack) -> None:
    store = redis.Redis.from_url(stack.store_url)

    def listeners() -> int:
        return store.info("clients")["pubsub_clients"]

    before = listeners()
    command = [str(Path(sys.executable).parent / "scoreline"), "load", "--rate", "20", "--seconds", "600", "--json"]
    running = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        env={"PATH": os.environ["PATH"], "SCORELINE_STORE_URL": stack.store_url},
    )
    eventually(lambda: listeners() > before)  # it has accepted something, and waits for the end
    running.send_signal(signal.SIGINT)
    printed, _ = running.communicate(timeout=30)
    document = json.loads(printed)
    assert running.returncode == 0
    assert document["interrupted"] is True
    assert sum(document["ended"].values()) == document["accepted"] == document["offered"] > 0


def test_nobody_there_a_model_that_is_not_and_a_wrong_priority_have_their_exit_codes(
    scoreline: Cli, stack: LocalStack
) -> None:
    nobody = free_port()
    load = ("load", "--rate", "10", "--seconds", "1")
    cases = [
        (scoreline(*load, SCORELINE_STORE_URL=f"redis://127.0.0.1:{nobody}/0"), 3, "refused the connection"),
        (scoreline(*load, "--api", f"http://127.0.0.1:{nobody}"), 3, "does not answer"),
        (scoreline(*load, "--model", "nothing"), 4, "no model 'nothing' is released"),
        (scoreline(*load, "--model", "nothing", "--api", stack.api_url), 4, "no model 'nothing' is released"),
        (scoreline(*load, "--priority", "urgent"), 2, "allowed: high, normal, low"),
    ]
    for done, code, said in cases:
        assert done.returncode == code, (done.args, done.stderr)
        assert said in done.stderr
        assert "Traceback" not in done.stderr
