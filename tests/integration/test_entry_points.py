"""Every module that is started by its name starts, and none ever imports what lies in the folder it is started from."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from pipeline.samples.credit_data import read_applications
from pipeline.service.entry_points import CELERY_APP, CloneEntryPoint, EntryPoint, clone_environment, command
from tests.support.processes import eventually, free_port

SCORELINE = str(Path(sys.executable).parent / "scoreline")
NAMES = (
    "pipeline", "tasks", "preprocess", "scoring", "postprocess", "training", "bench", "chaos",
    "redis", "celery", "kombu", "flower", "supervisor", "superlance", "structlog", "queue", "signal", "platform",
)  # fmt: skip
"""Modules of ours, of our dependencies and of Python."""


class Folder:
    """A user's folder in which modules of our names lie. Whichever is imported leaves its name, and fails."""

    def __init__(self, path: Path) -> None:
        self.path = path / "working"
        self.path.mkdir()
        self._marker = path / "imported"
        for name in NAMES:
            (self.path / f"{name}.py").write_text(
                f"open({str(self._marker)!r}, 'a').write('{name}\\n')\nraise ImportError('the working folder')\n"
            )

    def imported(self) -> str:
        return self._marker.read_text() if self._marker.exists() else ""

    def run(self, start: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command in this folder to its end."""
        return subprocess.run(
            start,
            cwd=self.path,
            env={**os.environ, **environment},
            input="",
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_the_folder_would_be_imported_from(folder: Folder) -> None:
    """Without ``-P``: what the other tests look for can be found."""
    done = folder.run([sys.executable, "-m", EntryPoint.SWEEPER, "--help"])
    assert done.returncode != 0
    assert folder.imported()


@pytest.mark.parametrize("module", [*EntryPoint, *CloneEntryPoint])
def test_each_module_that_is_started_by_its_name_starts(folder: Folder, module: EntryPoint | CloneEntryPoint) -> None:
    more = clone_environment({"PATH": os.environ["PATH"]}) if isinstance(module, CloneEntryPoint) else {}
    done = folder.run(command(module, "--help"), **more)
    assert (done.returncode, folder.imported()) == (0, ""), done.stdout + done.stderr


def test_celery_finds_the_app_by_its_name(folder: Folder, tmp_path: Path) -> None:
    """Celery's own commands look in the working folder first: an operator runs them somewhere else."""
    start = command("celery", "-A", CELERY_APP, "report")
    done = subprocess.run(start, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, "'unrouted'" in done.stdout) == (0, True), done.stdout + done.stderr


@pytest.fixture
def up(folder: Folder, tmp_path: Path) -> Iterator[dict[str, str]]:
    """A stack that ``scoreline up`` has started from that folder: its ready document."""
    ready, log = tmp_path / "ready.json", (tmp_path / "up.log").open("wb")
    process = subprocess.Popen([SCORELINE, "up", "--ready-file", ready], cwd=folder.path, stdout=log, stderr=log)
    try:
        eventually(lambda: ready.exists() or process.poll() is not None, within_s=120)
        assert ready.exists(), (tmp_path / "up.log").read_text()
        yield json.loads(ready.read_text())
    finally:
        process.terminate()
        assert process.wait(60) == 0


def test_no_service_imports_what_lies_in_the_users_folder(folder: Folder, up: dict[str, str]) -> None:
    score = {"model": "credit-default", "features": read_applications()[0].features}
    ended = httpx.post(f"{up['api_url']}/v1/scores", json=score, params={"wait": 30}, timeout=40).json()
    assert ended["state"] == "succeeded"
    environment = {**os.environ, "SCORELINE_STORE_URL": up["store_url"]}
    services = {
        f"http://127.0.0.1:{port}": subprocess.Popen(
            [SCORELINE, *arguments, str(port)],
            cwd=folder.path,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for port, arguments in (
            (free_port(), ("worker", "scoring", "--health-port")),
            (free_port(), ("sweeper", "--health-port")),
            (free_port(), ("api", "--port")),
        )
    }
    try:
        for url, service in services.items():
            eventually(lambda url=url: httpx.get(f"{url}/readyz", timeout=10).status_code == 200, within_s=60)
            assert service.poll() is None
    finally:
        for service in services.values():
            service.terminate()
        worker, sweeper, _ = [service.wait(30) for service in services.values()]  # uvicorn ends by the signal itself
        assert (worker, sweeper) == (0, 0)
    published = folder.run([SCORELINE, "publish", "--json"], SCORELINE_STORE_URL=up["store_url"])
    assert (published.returncode, folder.imported()) == (0, ""), published.stderr


@pytest.mark.parametrize("name", ["bench", "chaos"])
def test_no_command_of_the_clone_imports_what_lies_there(folder: Folder, name: str) -> None:
    done = folder.run([SCORELINE, name, "--help"])
    assert (done.returncode, folder.imported()) == (0, ""), done.stdout + done.stderr
