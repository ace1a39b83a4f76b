"""The proof in small: one seeded run with every kind of fault, against a stack of real processes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from chaos.report import BAD
from chaos.schedule import FAULTS


@pytest.mark.timeout(400)
def test_whatever_dies_every_accepted_request_ends_once(tmp_path: Path) -> None:
    result = tmp_path / "chaos.json"
    scoreline = Path(sys.executable).parent / "scoreline"
    # Recoveries are goals, measured on a machine that does nothing else: `--no-goals` here.
    options = ["--seconds", "20", "--rate", "60", "--seed", "7", "--no-goals", "--json", str(result)]
    run = subprocess.run([scoreline, "chaos", *options], capture_output=True, text=True, timeout=390, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    document = json.loads(result.read_text())
    assert {name: document[name] for name in BAD if name != "hung"} == dict.fromkeys(set(BAD) - {"hung"}, 0)
    assert document["accepted"] == document["ended"] > 500
    assert set(document["faults"]) == set(FAULTS)
    assert all(fault["count"] for fault in document["faults"].values())


def test_a_fault_that_does_not_exist_is_a_usage_error() -> None:
    command = [Path(sys.executable).parent / "scoreline", "chaos", "--faults", "earthquake"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 2
    assert "no fault earthquake" in run.stderr
