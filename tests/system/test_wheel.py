"""The wheel, installed outside the clone: what is in it, what each extra of it is enough for, and that it works."""

import csv
import json
import re
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.samples.credit_data import FEATURES, read_applications, split
from tests.conftest import eventually
from tests.support.installed import REPOSITORY, Installed, build_wheel, install

PACKAGES = {"scoreline", "pipeline", "preprocess", "scoring", "postprocess", "tasks", "training"}
ROWS = [application.features for application in split(read_applications()).held_out[:20]]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("build"))


@pytest.fixture(scope="module")
def base(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The base install: what a producer has."""
    return install(wheel, tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def local(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return install(wheel, tmp_path_factory.mktemp("local"), "local")


@pytest.fixture(scope="module")
def up(local: Installed) -> Iterator[dict[str, str]]:
    """The ready document of ``scoreline up``, which ends by SIGTERM and leaves nothing behind."""
    ready = local.cwd / "ready.json"
    command = [local.folder / "bin" / "scoreline", "up", "--ready-file", ready]
    process = subprocess.Popen(command, env=local.environment(), cwd=local.cwd)
    try:
        eventually(lambda: ready.exists() or process.poll() is not None, within_s=120)
        assert process.poll() is None
        document = json.loads(ready.read_text())
        yield document
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
    assert (code, ready.exists(), Path(document["data_dir"]).exists()) == (0, False, False)


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_has_the_packages_and_nothing_that_belongs_to_the_clone(wheel: Path) -> None:
    assert {name.partition("/")[0] for name in names(wheel)} == {
        *PACKAGES,
        f"{wheel.name.rpartition('-py3')[0]}.dist-info",
    }
    versions = {name.split("/")[3] for name in names(wheel) if name.startswith("pipeline/samples/models/")}
    assert versions == {"credit-default", "credit-default-logistic"}


def test_the_wheel_has_every_module_and_every_file_that_they_read(wheel: Path) -> None:
    here = {
        str(path.relative_to(REPOSITORY))
        for package in PACKAGES
        for path in (REPOSITORY / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and "relevance-minilm" not in str(path)
    }
    assert {name for name in names(wheel) if ".dist-info/" not in name} == here
    assert {"pipeline/ledger/bell.json", "pipeline/ledger/lua/accept.lua", "scoreline/py.typed"} < here


def test_nothing_of_the_clone_is_imported(base: Installed, local: Installed) -> None:
    program = "import pipeline, scoreline, sys; print(pipeline.__file__, scoreline.__file__, *sys.path, sep='\\n')"
    for installed in (base, local):
        package, public, *path = installed.run("python", "-c", program).stdout.splitlines()
        assert package == str(installed.site_packages / "pipeline" / "__init__.py")
        assert public == str(installed.site_packages / "scoreline" / "__init__.py")
        assert not [each for each in path if Path(each).is_relative_to(REPOSITORY)]


@pytest.mark.parametrize(
    ("extra", "modules"),
    [
        ("", ["scoreline", "pipeline.cli", "pipeline.sweeper.__main__"]),
        ("api", ["pipeline.api.app", "uvicorn"]),
        ("worker", ["tasks.app", "tasks.worker", "tasks.child", "preprocess.service", "postprocess.service"]),
        ("scoring", ["scoring.service", "tasks.publish", "training.relevance_minilm"]),
        ("monitor", ["tasks.flower", "flower.command"]),
    ],
)
def test_an_extra_is_all_that_its_services_need(wheel: Path, tmp_path: Path, extra: str, modules: list[str]) -> None:
    installed = install(wheel, tmp_path / "venv", extra)
    done = installed.run("python", "-c", f"import {', '.join(modules)}")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (["up"], "local"),
        (["demo"], "local"),
        (["train-demo"], "local"),
        (["load", "--rate", "1", "--api", "http://127.0.0.1:1"], "local"),
        (["import-minilm"], "scoring"),
        (["publish"], "scoring"),
        (["worker", "scoring"], "scoring"),
        (["worker", "preprocess"], "worker"),
        (["worker", "postprocess"], "worker"),
        (["api"], "api"),
    ],
)
def test_a_missing_extra_is_one_line_that_names_it(base: Installed, arguments: list[str], extra: str) -> None:
    done = base.run("scoreline", *arguments)
    needing = "--api" if "--api" in arguments else "this command"
    line = f"scoreline: {needing} needs the extra \"{extra}\": pip install 'scoreline[{extra}]'\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", line)


@pytest.mark.parametrize("command", ["bench", "chaos"])
def test_what_needs_the_clone_says_so(base: Installed, local: Installed, command: str) -> None:
    for installed in (base, local):
        done = installed.run("scoreline", command)
        line = f"scoreline: {command} is part of the source repository: run `make {command}` in a clone\n"
        assert (done.returncode, done.stderr) == (2, line)


def test_the_model_that_fails_on_demand_needs_the_clone(local: Installed) -> None:
    done = local.run("scoreline", "up", "--chaos-model")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "part of the source repository" in done.stderr


def test_a_model_store_without_a_model_is_named_at_once(local: Installed, tmp_path: Path) -> None:
    for command in ("up", "demo"):
        done = local.run("scoreline", command, SCORELINE_MODEL_STORE=str(tmp_path))
        assert done.returncode == 1
        assert f"the model store {tmp_path} holds no model" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_model_store_that_cannot_be_written_is_named_before_the_work(local: Installed, tmp_path: Path) -> None:
    blocked = tmp_path / "file" / "models"
    (tmp_path / "file").touch()
    for command in ("train-demo", "import-minilm"):
        done = local.run("scoreline", command, SCORELINE_MODEL_STORE=str(blocked))
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert f"the model store {blocked} cannot be written" in done.stderr
        assert "SCORELINE_MODEL_STORE" in done.stderr


CONSUMER = '''
"""A program of a user's own."""

import asyncio

from scoreline import AsyncScoringClient, FakeScoringClient, ScoringClient, problems


def score(client: ScoringClient | FakeScoringClient, features: dict[str, float]) -> str | int | None:
    try:
        status = client.submit("credit-default", features, priority="high", idempotency_key="a")
    except problems.RateLimited as refusal:
        return refusal.retry_after_s
    except problems.Problem as refusal:
        return refusal.slug
    ended = client.wait(status["request_id"], 5.0)
    return ended["state"] if ended["result"] is None else str(ended["result"]["score"])


async def later(client: AsyncScoringClient) -> list[str]:
    return [str(each) async for each in client.submit_many([{"model": "credit-default", "features": {}}])]


def result(model: str, features: object) -> dict[str, float]:
    return {"score": 0.5}


with FakeScoringClient(result) as fake:
    print(score(fake, {"Income": 1.0}))
'''


def test_a_users_strict_mypy_passes_and_finds_wrong_calls(base: Installed) -> None:
    consumer = base.cwd / "consumer.py"
    consumer.write_text(CONSUMER)
    command = [sys.executable, "-m", "mypy", "--strict", "--python-executable", str(base.folder / "bin" / "python")]

    def check() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, consumer.name], cwd=base.cwd, env=base.environment(), capture_output=True, text=True, check=False
        )

    right = check()
    assert right.returncode == 0, right.stdout
    done = base.run("python", consumer)
    assert (done.returncode, done.stdout) == (0, "0.5\n"), done.stderr
    consumer.write_text(CONSUMER.replace('priority="high"', 'priority="highest"').replace('["state"]', '["stat"]'))
    wrong = check()
    assert set(re.findall(r"\[([a-z-]+)\]$", wrong.stdout, re.MULTILINE)) == {"arg-type", "typeddict-item"}, wrong


def test_the_demo_runs_from_the_wheel(local: Installed) -> None:
    done = local.run("scoreline", "demo", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["succeeded"] == document["requests"] > 0


def test_the_doctor_finds_nothing_wrong_in_a_stack_from_the_wheel(local: Installed, up: dict[str, str]) -> None:
    done = local.run("scoreline", "doctor", "--json", SCORELINE_STORE_URL=up["store_url"])
    assert done.returncode == 0, done.stdout
    checks = {check["check"]: check["detail"] for check in json.loads(done.stdout)}
    assert "credit-default@1" in checks["model store"]
    assert "credit-default@1" in checks["releases"]


def test_the_base_install_has_all_that_a_producer_needs(base: Installed, up: dict[str, str]) -> None:
    store = {"SCORELINE_STORE_URL": up["store_url"]}
    with (base.cwd / "rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, FEATURES)
        writer.writeheader()
        writer.writerows(ROWS)
    submitted = base.run(
        "scoreline", "submit", "rows.csv", "--model", "credit-default", "--wait", "--out", "out", **store
    )
    assert submitted.returncode == 0, submitted.stderr
    request_id = json.loads((base.cwd / "out").read_text().splitlines()[0])["request_id"]
    status = json.loads(base.run("scoreline", "status", request_id, "--json", **store).stdout)
    assert status["state"] == "succeeded"
    assert base.run("scoreline", "cancel", request_id, **store).returncode == 5
    for command in ("models", "stats", "workers", "devices", "dead list"):
        done = base.run("scoreline", *command.split(), "--json", **store)
        assert done.returncode == 0, done.stderr
        json.loads(done.stdout)
    offered = base.run("scoreline", "load", "--rate", "5", "--seconds", "1", "--json", **store)
    assert offered.returncode == 0, offered.stderr
    checked = base.run("scoreline", "doctor", "--json", **store)
    assert checked.returncode == 0, checked.stdout
    details = {check["check"]: check["detail"] for check in json.loads(checked.stdout)}
    assert details["model store"] == 'not looked at: that needs the extra "worker"'
    assert "credit-default@1" in details["releases"]
