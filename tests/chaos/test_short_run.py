"""The proof in small: a seeded run of some faults against a stack of real processes."""

import json
import subprocess
import sys
from pathlib import Path

FAULTS = ("kill-child", "kill-worker", "drop-bells", "poison")


def test_whatever_dies_every_accepted_request_ends_once(tmp_path: Path) -> None:
    result = tmp_path / "chaos.json"
    scoreline = Path(sys.executable).parent / "scoreline"
    options = ["--seconds", "25", "--rate", "40", "--seed", "7", "--faults", ",".join(FAULTS), "--json", str(result)]
    run = subprocess.run([scoreline, "chaos", *options], capture_output=True, text=True, timeout=170, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    document = json.loads(result.read_text())
    assert {name: document[name] for name in ("lost", "doubled", "stuck", "wrong")} == dict.fromkeys(
        ("lost", "doubled", "stuck", "wrong"), 0
    )
    assert document["accepted"] == document["ended"] > 500
    assert set(document["faults"]) == set(FAULTS)


def test_a_fault_that_does_not_exist_is_a_usage_error() -> None:
    command = [Path(sys.executable).parent / "scoreline", "chaos", "--faults", "earthquake"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 2
    assert "no fault earthquake" in run.stderr
