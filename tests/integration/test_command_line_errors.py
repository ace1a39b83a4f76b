"""What is wrong with the command line's surroundings is told in one line, with its exit code: never a traceback."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.settings import SHIPPED_MODELS

SCORELINE = str(Path(sys.executable).parent / "scoreline")
COMMANDS = (
    "stats", "models", "doctor", "publish", "worker preprocess", "sweeper", "api", "dead list", "status nonsense",
    "load --rate 1 --seconds 1",
)  # fmt: skip


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SCORELINE, *arguments],
        capture_output=True,
        check=False,
        text=True,
        timeout=150,
        env={"PATH": "/usr/bin:/bin", **environment},
    )


def check(done: subprocess.CompletedProcess[str], code: int, said: str) -> None:
    """One line, also where the terminal is narrow."""
    assert "Traceback" not in done.stderr
    assert (done.returncode, len(done.stderr.splitlines())) == (code, 1), done.stderr
    assert said in done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_a_store_url_without_a_scheme_is_refused_by_every_command(command: str) -> None:
    done = run(*command.split(), SCORELINE_STORE_URL="localhost:6379")
    check(done, 2, "SCORELINE_STORE_URL: 'localhost:6379' has no scheme: did you mean redis://localhost:6379/0?")


@pytest.mark.parametrize(
    ("setting", "url", "said"),
    [
        ("SCORELINE_CACHE_URL", "localhost", "did you mean redis://localhost/0?"),
        ("SCORELINE_STORE_URL", "redis://localhost:port/0", "the port is not a number"),
        ("SCORELINE_STORE_URL", "redis://localhost:70000/0", "the port is not a number"),
        ("SCORELINE_STORE_URL", "redis://localhost/first", "the database is not a number"),
        ("SCORELINE_STORE_URL", "redis:///0", "names no host"),
        ("SCORELINE_STORE_URL", "amqp://localhost", "is neither redis:// nor rediss://"),
        ("SCORELINE_STORE_URL", "redis://user:geheim@localhost:port/0", "'redis://***@localhost:port/0'"),
    ],
)
def test_a_store_url_that_cannot_be_used_is_refused_without_its_password(setting: str, url: str, said: str) -> None:
    done = run("stats", **{setting: url})
    check(done, 2, said)
    assert "geheim" not in done.stderr


def test_a_model_store_that_is_a_file_or_is_missing_is_named(valkey: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for store, said in ((file, "Not a directory"), (tmp_path / "missing", "No such file or directory")):
        for command in ("publish", "demo"):
            done = run(command, SCORELINE_STORE_URL=valkey, SCORELINE_MODEL_STORE=str(store))
            assert (done.returncode, "Traceback" in done.stderr) == (1, False), done.stderr
            assert f"the model store {store} cannot be read: {said}; set SCORELINE_MODEL_STORE" in done.stderr


def test_a_demo_without_its_model_says_why_it_is_not_released(tmp_path: Path) -> None:
    shutil.copytree(SHIPPED_MODELS, tmp_path / "models")
    manifest = tmp_path / "models" / "credit-default" / "1" / "manifest.json"
    manifest.write_text("{not json")
    done = run("demo", SCORELINE_MODEL_STORE=str(tmp_path / "models"))
    check(done, 1, "credit-default/1: ")
    assert str(manifest) in done.stderr


@pytest.mark.parametrize("command", ["train-demo", "import-minilm"])
def test_an_artifact_that_cannot_be_written_is_told(command: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    check(run(command, "--out", str(file)), 1, f"the model store {file} cannot be written")
    check(run(command, "--out", str(tmp_path / "models"), "--version", "a/b"), 2, "'a/b' cannot be a version")
    assert not (tmp_path / "models").exists()


def test_a_trained_model_does_not_replace_another_of_its_version(tmp_path: Path) -> None:
    folder = tmp_path / "credit-default-logistic" / "1"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    check(run("train-demo", "--out", str(tmp_path)), 5, "choose another version")
    assert [path.name for path in tmp_path.rglob("*")] == ["credit-default-logistic", "1", "manifest.json"]


def test_an_api_url_that_is_none_is_a_usage_error() -> None:
    done = run("load", "--rate", "1", "--seconds", "1", "--api", "localhost:8000")
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    assert "http://" in done.stderr


def test_a_data_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    check(run("up", "--data-dir", str(file)), 1, str(file))


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """Root may write everywhere, but not below a file."""
    file = tmp_path / "file"
    file.touch()
    check(run("train-demo", "--out", str(file / "models")), 1, str(file / "models"))
