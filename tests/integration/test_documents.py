"""The documents are run as a newcomer would type them, on a stack that README's line has started.

Blocks of one page run in order in one folder: `sh` by bash, `python` by Python, `console` by bash, with what it prints
compared (`...` stands for anything). Lines that begin with `make` are only resolved: their targets have tests.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.settings import REPOSITORY
from tests.support.processes import eventually, free_port

FENCE = re.compile(r"^```(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXECUTED = {"sh", "console", "python"}
OPTIONAL = {"jq"}
"""Programs that documents may use, and that a machine of the tests may lack."""


def blocks_of(page: str) -> list[tuple[str, str]]:
    return [(kind, code) for kind, code in FENCE.findall((REPOSITORY / page).read_text()) if kind in EXECUTED]


PAGES = [
    page
    for page in sorted(path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "docs").glob("*.md"))
    if blocks_of(page)
]
PAGES += ["CONTRIBUTING.md"]
(UP,) = [code for _, code in blocks_of("README.md") if code.startswith("scoreline up")]


@dataclass
class Typed:
    """A stack started by README's line. ``ports``: what stands for the ports in the documents."""

    folder: Path
    ports: dict[str, str]
    environment: dict[str, str]
    store_url: str = ""

    def on(self, code: str) -> str:
        for written, free in self.ports.items():
            code = code.replace(written, free)
        return code

    def run(self, page: str) -> list[str]:
        """What each block of a page printed; a block that fails fails the test."""
        folder = self.folder / page.replace("/", "-")
        folder.mkdir()
        shutil.copy(self.folder / "ready.json", folder)
        return [self._run(page, kind, code, folder) for kind, code in blocks_of(page) if code != UP]

    def _run(self, page: str, kind: str, code: str, folder: Path) -> str:
        made, typed = _without_make(code) if kind == "sh" else ([], code)
        for target in made:
            subprocess.run(["make", "--dry-run", target], cwd=REPOSITORY, check=True, capture_output=True)
        if kind == "console":
            return self._console(page, code, folder)
        # README's own commands say how the store is found.
        finds = kind == "python" or page != "README.md"
        command = [sys.executable, "-c"] if kind == "python" else ["bash", "-euo", "pipefail", "-c"]
        if kind == "sh" and any(f"\n{tool} " in f"\n{code}" and not shutil.which(tool) for tool in OPTIONAL):
            command.insert(1, "-n")  # it is parsed at least
        done = subprocess.run(
            [*command, self.on(typed)],
            cwd=folder,
            env=self.environment | ({"SCORELINE_STORE_URL": self.store_url} if finds else {}),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{page}:\n{code}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def _console(self, page: str, code: str, folder: Path) -> str:
        _, *parts = re.split(r"^\$ (.*)\n", self.on(code), flags=re.MULTILINE)
        environment = self.environment | {"SCORELINE_STORE_URL": self.store_url}
        for command, shown in zip(parts[::2], parts[1::2], strict=True):
            done = subprocess.run(
                ["bash", "-uo", "pipefail", "-c", f"({command}) 2>&1"],
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            expected = ".*".join(map(re.escape, shown.split("...")))
            assert re.fullmatch(expected, done.stdout, re.DOTALL), f"{page}: {command}\n{done.stdout}"
        return ""


def _without_make(code: str) -> tuple[list[str], str]:
    lines = code.splitlines()
    made = [line.split()[1] for line in lines if line.startswith("make ")]
    return made, "\n".join(line for line in lines if not line.startswith("make "))


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Typed]:
    """The stack of the documents; everything that they write stays in its folder."""
    folder = tmp_path_factory.mktemp("documents")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "COLUMNS": "200"}
    stack = Typed(folder, {port: str(free_port()) for port in ("8000", "5555", "8001")}, environment)
    with (folder / "up.log").open("w") as log:
        up = subprocess.Popen(["bash", "-c", f"exec {stack.on(UP)}"], cwd=folder, env=environment, stdout=log)
        try:
            eventually((folder / "ready.json").exists, within_s=90)
            ready = json.loads((folder / "ready.json").read_text())
            stack.store_url = ready["store_url"]
            environment["LOGS"] = f"{ready['data_dir']}/logs"
            yield stack
        finally:
            up.terminate()
            assert up.wait(60) == 0


def test_the_readme_is_true(typed: Typed) -> None:
    assert [kind for kind, _ in blocks_of("README.md")] == ["sh", "sh", "sh", "sh", "python", "sh"]
    _, curl, cli, python, operate = typed.run("README.md")
    assert json.loads(curl)["state"] == "succeeded"
    assert "2 succeeded" in cli
    assert len((typed.folder / "README.md" / "answers.jsonl").read_text().splitlines()) == 2
    assert python.startswith("succeeded {")
    assert "ok" in operate
    assert "wrong" not in operate


def test_the_semantics_are_true(typed: Typed) -> None:
    again, shared, _ = typed.run("docs/semantics.md")
    assert again == "one request\n"
    first, given_again, computed = (json.loads(line) for line in shared.splitlines())
    assert {answer["state"] for answer in (first, given_again, computed)} == {"succeeded"}
    assert not first["cached"]
    assert given_again["cached"]
    assert not computed["cached"] and not computed["joined"]  # noqa: PT018
    assert first["result"] == given_again["result"] == computed["result"]


def test_the_page_of_the_api_is_true(typed: Typed) -> None:
    submitted, keys = typed.run("docs/http.md")
    assert submitted == "succeeded\n"
    assert keys.split() == ["401", "200"]
    shown = json.loads((typed.folder / "docs-http.md" / "ended.json").read_text())
    page = [
        json.loads(code) for kind, code in FENCE.findall((REPOSITORY / "docs/http.md").read_text()) if kind == "json"
    ]
    assert list(shown) == list(page[0])
    assert shown["result"].keys() == page[0]["result"].keys()
    assert shown["timings"].keys() == page[0]["timings"].keys()


def test_a_model_of_ones_own_is_served(typed: Typed) -> None:
    _, answer = typed.run("docs/models.md")
    status = json.loads(answer)
    assert (status["state"], status["scored_by"]) == ("succeeded", "small-loans@1")
    assert status["result"]["decision"] == "approve"


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page not in ("docs/semantics.md", "docs/http.md", "docs/models.md")]
)
def test_what_a_page_shows_can_be_done(typed: Typed, page: str) -> None:
    typed.run(page)


def test_the_ready_file_is_as_shown(typed: Typed) -> None:
    blocks = FENCE.findall((REPOSITORY / "docs/wire.md").read_text())
    (shown,) = [json.loads(code) for kind, code in blocks if kind == "json"]
    assert json.loads((typed.folder / "ready.json").read_text()).keys() == shown.keys()
