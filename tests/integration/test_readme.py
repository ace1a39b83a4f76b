"""README.md is run as a newcomer would type it; what it lists must exist."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.settings import PREFIX, REPOSITORY, Settings
from tests.support.processes import eventually, free_port

README = (REPOSITORY / "README.md").read_text()
BLOCKS = re.findall(r"^```(sh|python)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
MAKE = [line for _, code in BLOCKS for line in code.splitlines() if line.startswith("make ")]
(UP,) = [code for _, code in BLOCKS if code.startswith("scoreline up")]
TYPED = [(kind, code) for kind, code in BLOCKS if not code.startswith(("make", "scoreline up"))]


@pytest.fixture(scope="module")
def typed_up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    """The README's stack, started by the README's line, on ports that are free; the folder, and what replaces what."""
    folder = tmp_path_factory.mktemp("readme")
    ports = {"8000": str(free_port()), "5555": str(free_port())}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path}
    with (folder / "up.log").open("w") as log:
        up = subprocess.Popen(["bash", "-c", f"exec {_on(UP, ports)}"], cwd=folder, env=environment, stdout=log)
        try:
            eventually((folder / "ready.json").exists, within_s=90)
            yield folder, ports
        finally:
            up.terminate()
            assert up.wait(60) == 0


def _on(code: str, ports: dict[str, str]) -> str:
    for written, free in ports.items():
        code = code.replace(written, free)
    return code


def test_the_blocks_run_in_order(typed_up: tuple[Path, dict[str, str]]) -> None:
    folder, ports = typed_up
    assert [kind for kind, _ in TYPED] == ["sh", "sh", "python", "python", "sh", "sh"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    store_url = json.loads((folder / "ready.json").read_text())["store_url"]
    said = []
    for kind, code in TYPED:
        command = ["bash", "-euo", "pipefail", "-c"] if kind == "sh" else [sys.executable, "-c"]
        environment = {**os.environ, "PATH": path} | ({"SCORELINE_STORE_URL": store_url} if kind == "python" else {})
        done = subprocess.run(
            [*command, _on(code, ports)], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
        said.append(done.stdout)
    curl, cli, python, _, twice, again = said
    assert json.loads(curl)["state"] == "succeeded"
    assert "2 succeeded" in cli
    assert len((folder / "answers.jsonl").read_text().splitlines()) == 2
    assert python.startswith("succeeded {")
    first, second = (json.loads(line) for line in twice.splitlines())
    assert first == second
    assert first["state"] == "succeeded"
    lately, anew = (json.loads(line) for line in again.splitlines())
    assert lately["cached"] or lately["joined"]
    assert not anew["cached"] and not anew["joined"]  # noqa: PT018
    assert lately["result"] == anew["result"]


@pytest.mark.parametrize("line", MAKE)
def test_its_make_targets_exist(line: str) -> None:
    target = line.split()[1]
    subprocess.run(["make", "--dry-run", target], cwd=REPOSITORY, check=True, capture_output=True)


def test_every_setting_is_listed() -> None:
    table = README[README.index("| `SCORELINE_...`") :]
    listed = set(re.findall(r"`([A-Z_]+)`", table))
    assert {name.upper() for name in Settings.model_fields} <= listed, PREFIX


def test_the_tests_it_names_exist() -> None:
    tests = "\n".join(path.read_text() for path in (REPOSITORY / "tests").rglob("test_*.py"))
    named = re.findall(r"test_[a-z_]{12,}", README)
    assert len(named) >= 10
    assert [name for name in named if f"def {name}(" not in tests] == []


def test_the_files_and_folders_it_names_exist() -> None:
    named = set(re.findall(r"`([a-z]+/[a-z_/.]*)`", README))
    assert len(named) >= 10
    assert [
        name for name in sorted(named) if not list(REPOSITORY.glob(name)) + list(REPOSITORY.glob(f"*/{name}"))
    ] == []
