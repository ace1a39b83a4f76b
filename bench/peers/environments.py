"""A virtual environment for each peer, under ``.venv-peers``, made when it is first needed."""

import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.settings import REPOSITORY

FOLDER = REPOSITORY / ".venv-peers"
COMPUTING = (
    "jsonschema_rs", "numpy", "nvidia-ml-py", "pybreaker", "pydantic-settings", "safetensors", "structlog",
    "tokenizers", "torch",
)  # fmt: skip
"""What the stages' own code needs: a peer gets the versions that Scoreline has here."""


class CannotInstall(Exception):
    """A peer's packages could not be installed."""


def computing() -> list[str]:
    """Returns the requirements of a peer that runs the stages' code."""
    return [f"{name}=={importlib.metadata.version(name)}" for name in COMPUTING]


def environment(name: str, requirements: Sequence[str]) -> Path:
    """Returns the interpreter of an environment with these requirements, made if needed; CannotInstall."""
    folder = FOLDER / name
    python, stamp = folder / "bin" / "python", folder / "installed.json"
    if stamp.is_file() and json.loads(stamp.read_text()) == list(requirements):
        return python
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(folder)],
        [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise CannotInstall("\n".join(done.stderr.strip().splitlines()[-4:]) or f"{command[1:4]} failed")
    stamp.write_text(json.dumps(list(requirements)))
    return python


def versions(python: Path, names: Sequence[str]) -> dict[str, str]:
    """Returns the versions that an environment has of some packages."""
    ask = f"import importlib.metadata as m, json; print(json.dumps({{n: m.version(n) for n in {list(names)!r}}}))"
    answer = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True).stdout
    found: dict[str, str] = json.loads(answer)
    return found


def variables(**more: str) -> dict[str, str]:
    """Returns the environment variables of a process in one: it finds this repository's packages."""
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), **more}
