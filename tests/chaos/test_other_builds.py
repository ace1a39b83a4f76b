"""The proof must fail where it should: builds with one safeguard taken out, each run as the real one is.

A build is a copy of the repository's packages with one change.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from chaos.report import BAD
from pipeline.settings import REPOSITORY

PARTS = ("pipeline", "preprocess", "scoring", "postprocess", "tasks", "bench", "chaos")
COUNTS = [name for name in BAD if name != "hung"]  # how long calls take is asked of a machine that does nothing else
SCRIPTS_SEED = 217
CLEAN = dict.fromkeys(COUNTS, 0)
pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def build(tmp_path: Path) -> Path:
    """A copy of the repository, to be changed."""
    folder = tmp_path / "build"
    for part in PARTS:
        shutil.copytree(REPOSITORY / part, folder / part)  # with what Python has compiled: its times are copied, too
    return folder


def change(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert text.count(old) == 1, f"{file.name} has changed: what this build takes out is not there any more"
    file.write_text(text.replace(old, new))


def chaos(build: Path, faults: str, seed: int = 7) -> tuple[int, dict[str, Any]]:
    """Run the proof of a build."""
    result = build / "chaos.json"
    command = [
        sys.executable,
        "-m",
        "chaos",
        "--seconds",
        "12",
        "--rate",
        "60",
        "--seed",
        str(seed),
        "--faults",
        faults,
    ]
    run = subprocess.run(
        [*command, "--settle", "20", "--no-goals", "--json", str(result)],
        cwd=build,
        env={**os.environ, "PYTHONPATH": str(build)},
        capture_output=True,
        text=True,
        timeout=290,
        check=False,
    )
    assert result.exists(), run.stdout + run.stderr
    return run.returncode, json.loads(result.read_text())


def counts(document: dict[str, Any]) -> dict[str, int]:
    return {name: document[name] for name in COUNTS}


def test_a_build_whose_settle_does_not_check_its_claim_fails(build: Path) -> None:
    change(
        build / "pipeline" / "ledger" / "lua" / "settle.lua",
        "if redis.call('HEXISTS', claims, field) == 0 then return { 'lost' } end",
        "",
    )
    code, document = chaos(build, "pause")
    assert code == 1
    assert document["doubled"] > 0
    assert any("was settled, but had been released before" in finding for finding in document["findings"])


def test_a_build_whose_sweeper_does_nothing_fails(build: Path) -> None:
    change(
        build / "pipeline" / "sweeper" / "loop.py",
        "        lead = self._sweeping.lead(\n",
        "        return\n        lead = self._sweeping.lead(\n",
    )
    code, document = chaos(build, "kill-worker")
    assert code == 1
    assert document["stuck"] > 0
    # A batch that nobody takes back, or a lane whose bell has died with its worker: which comes first is chance.
    assert any(finding.startswith("stuck: left in the ledger") for finding in document["findings"])


def test_a_build_whose_settle_takes_its_claim_away_first_fails(build: Path) -> None:
    """What is stopped behind that stands nowhere. With this seed the first that preprocess may not send is MSET."""
    change(
        build / "pipeline" / "ledger" / "lua" / "settle.lua",
        "if redis.call('HEXISTS', claims, field) == 0 then return { 'lost' } end",
        "if redis.call('HDEL', claims, field) == 0 then return { 'lost' } end",
    )
    code, document = chaos(build, "abort-script", seed=SCRIPTS_SEED)
    assert code == 1
    assert document["stuck"] > 0


def test_the_unbroken_build_passes_what_the_broken_ones_fail(build: Path) -> None:
    code, document = chaos(build, "pause,kill-worker,abort-script", seed=SCRIPTS_SEED)
    assert (code, counts(document)) == (0, CLEAN), document["findings"]
    assert document["accepted"] == document["ended"] > 300


def test_nothing_depends_on_kombu_restoring_messages(build: Path) -> None:
    """A build in which kombu never gives an unacknowledged message back, at no time and at no shutdown."""
    with (build / "tasks" / "broker.py").open("a") as broker:
        broker.write(
            "\n\nfrom kombu.transport import redis as transport\n\n"
            "transport.QoS.restore_visible = lambda *_, **__: None\n"
            "transport.QoS.restore_by_tag = lambda *_, **__: None\n"
            "transport.QoS.restore_at_shutdown = False\n"
            "transport.Channel.do_restore = False\n"
        )
    code, document = chaos(build, "kill-child,kill-worker,term")
    assert (code, counts(document)) == (0, CLEAN), document["findings"]
    assert document["accepted"] == document["ended"] > 300
