"""The comparison in small: stock Celery, real processes, real kills. What it loses is its own affair."""

import json
import subprocess
import sys
from pathlib import Path

from pipeline.settings import REPOSITORY

KILLS = ("child", "worker", "store")


def stock(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "chaos.stock", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=170, check=False, cwd=REPOSITORY)


def test_every_accepted_request_is_accounted_for(tmp_path: Path) -> None:
    result = tmp_path / "stock.json"
    load = ["--seconds", "10", "--rate", "8", "--seed", "3", "--work-ms", "20", "--rows", "timeout-4s"]
    done = stock(*load, "--settle", "12", "--visibility-timeouts", "30,4", "--json", str(result))
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = json.loads(result.read_text())["rows"]
    assert row["name"] == "timeout-4s"
    assert row["name"] in done.stdout
    assert row["sent"] == row["accepted"] + row["unknown"]
    elsewhere = sum(row["returning"].values()) + sum(row["failed"].values()) + row["nowhere"]
    assert row["accepted"] == row["ended"] + elsewhere
    assert row["ended"] > 0
    assert set(row["kills"]) == set(KILLS)
    assert all(kill["count"] > 0 and kill["back"] <= kill["affected"] for kill in row["kills"].values())
    assert row["long_task"]["starts"] >= 1


def test_a_kill_that_does_not_exist_is_a_usage_error() -> None:
    done = stock("--kills", "moon")
    assert done.returncode == 2
    assert "no kill moon" in done.stderr
