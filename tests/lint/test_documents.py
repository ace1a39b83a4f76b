"""Documents: their links lead somewhere, the names on them exist, their tables say what the code says."""

import ast
import inspect
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest
import typer
import yaml

from pipeline.cli.main import cli
from pipeline.client import ScoringClient
from pipeline.contracts.problems import Problem
from pipeline.contracts.status import Status
from pipeline.settings import RENAMED, Settings

REPOSITORY = Path(__file__).parents[2]
PAGES = sorted(
    path.relative_to(REPOSITORY).as_posix()
    for path in [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md"), *REPOSITORY.glob("*/README.md")]
)
OURS = [page for page in PAGES if not page.startswith(("bench/", "deploy/"))]
"""Pages whose code blocks are run; those beside the benchmarks and the deploy files have readers of their own."""
FENCE = re.compile(r"^ *```(\S*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
NAME = re.compile(r"`(\w[\w./-]*\.(?:py|lua|json))(?:::([\w.]+))?`")
EXECUTED = {"sh", "console", "python"}


def text_of(page: str) -> str:
    return (REPOSITORY / page).read_text()


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", FENCE.sub("", text))


@cache
def anchors_of(page: str) -> frozenset[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text_of(page)), re.MULTILINE)
    return frozenset(re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings)


@pytest.mark.parametrize("page", PAGES)
def test_no_link_is_dead(page: str) -> None:
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(text_of(page))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = unquote(target).partition("#")
        place = (REPOSITORY / page).parent / path if path else REPOSITORY / page
        if not place.exists() or (
            anchor and anchor not in anchors_of(place.resolve().relative_to(REPOSITORY).as_posix())
        ):
            dead.append(target)
    assert dead == []


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("docs/")])
def test_every_page_is_on_the_site(page: str) -> None:
    site = yaml.safe_load(re.sub(r"!!python\S*", "", text_of("mkdocs.yml")))

    def places(part: object) -> Iterator[str]:
        if isinstance(part, str):
            yield part
        elif isinstance(part, list):
            for each in part:
                yield from places(each)
        elif isinstance(part, dict):
            yield from places(list(part.values()))

    assert page.removeprefix("docs/") in set(places(site["nav"]))


@pytest.mark.parametrize("page", OURS)
def test_every_block_says_what_it_is(page: str) -> None:
    """Blocks of commands and Python are run (tests/integration/test_documents.py), JSON is parsed below."""
    assert {kind for kind, _ in FENCE.findall(text_of(page))} <= EXECUTED | {"json", "text"}


@pytest.mark.parametrize(
    ("page", "block"),
    [(page, block) for page in OURS for kind, block in FENCE.findall(text_of(page)) if kind == "json"],
)
def test_json_has_the_keys_of_what_it_shows(page: str, block: str) -> None:
    document = json.loads(block)
    if "request_id" in document:
        assert list(document) == list(Status.__annotations__)
    if "type" in document:
        (shown,) = (each for each in Problem.__subclasses__() if document["type"].endswith(f":{each.slug}"))
        assert (document["status"], document["title"]) == (shown.status, shown.title)
        known = shown(document["detail"], errors=document.get("errors"))
        assert document == known.document()


@cache
def names_in(path: Path) -> frozenset[str]:
    """What a file defines: functions and classes, methods as CLASS.METHOD."""
    if path.suffix == ".lua":
        return frozenset(re.findall(r"^(?:local )?function ([\w.]+)", path.read_text(), re.MULTILINE))
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            inner = (each for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef))
            found |= {f"{node.name}.{each.name}" for each in inner}
    return frozenset(found)


@pytest.mark.parametrize("page", OURS)
def test_the_files_and_names_it_names_exist(page: str) -> None:
    missing = [
        f"{file}::{name}" if name else file
        for file, name in NAME.findall(FENCE.sub("", text_of(page)))
        if "/" in file and (not (REPOSITORY / file).is_file() or (name and name not in names_in(REPOSITORY / file)))
    ]
    assert missing == []


@pytest.mark.parametrize("page", OURS)
def test_the_folders_it_names_exist(page: str) -> None:
    named = set(re.findall(r"`([a-z]+/[a-z_/]*)`", FENCE.sub("", text_of(page))))
    assert [
        name for name in sorted(named) if not list(REPOSITORY.glob(name)) + list(REPOSITORY.glob(f"*/{name}"))
    ] == []


def test_the_walk_names_much_of_the_code() -> None:
    walk = NAME.findall(text_of("docs/walk.md"))
    assert len(walk) >= 40
    assert sum(1 for _, name in walk if name) >= 30


@pytest.mark.parametrize("page", OURS)
def test_the_tests_it_names_exist(page: str) -> None:
    tests = "\n".join(path.read_text() for path in (REPOSITORY / "tests").rglob("test_*.py"))
    named = re.findall(r"`(test_[a-z_]{12,})`", text_of(page))
    assert [name for name in named if f"def {name}(" not in tests] == []


def test_reliability_rests_on_tests() -> None:
    assert len(set(re.findall(r"`(test_[a-z_]{12,})`", text_of("docs/reliability.md")))) >= 40


def test_the_readme_is_short_and_makes_no_excuses() -> None:
    readme = text_of("README.md")
    assert len(readme.splitlines()) <= 150
    assert "missed" not in readme


def test_the_table_of_settings_is_that_of_the_code() -> None:
    page = text_of("docs/settings.md")
    assert runpy.run_path(str(REPOSITORY / "docs/settings_table.py"))["with_table"](page) == page, (
        "run python docs/settings_table.py"
    )


@pytest.mark.parametrize("page", OURS)
def test_the_settings_it_names_exist(page: str) -> None:
    known = {name.upper() for name in Settings.model_fields}
    named = set(re.findall(r"\bSCORELINE_([A-Z_]+[A-Z])\b", text_of(page)))
    assert named <= known | {old.removeprefix("SCORELINE_") for old in RENAMED}


def test_every_renamed_setting_is_in_the_changelog() -> None:
    changelog = text_of("CHANGELOG.md")
    for old, new in RENAMED.items():
        assert f"`{old.removeprefix('SCORELINE_')}` is\n  `{new.removeprefix('SCORELINE_')}`" in changelog or (
            f"`{old.removeprefix('SCORELINE_')}` is `{new.removeprefix('SCORELINE_')}`" in changelog
        )


def test_every_command_is_among_the_public_names() -> None:
    commands = set(typer.main.get_command(cli).commands)  # type: ignore[attr-defined]
    listed = set()
    for row in re.findall(r"^\| (`[a-z-]+`(?:, `[a-z-]+`)*) \|", text_of("docs/wire.md"), re.MULTILINE):
        listed |= set(re.findall(r"[a-z-]+", row))
    assert commands <= listed


def test_every_method_of_the_client_is_among_the_public_names() -> None:
    methods = {name for name, _ in inspect.getmembers(ScoringClient, callable) if not name.startswith("_")}
    assert {name for name in methods if f"`{name}(" not in text_of("docs/wire.md")} <= {"close"}


def test_every_problem_is_in_the_page_of_the_api() -> None:
    slugs = {f"`{problem.slug}`" for problem in Problem.__subclasses__()}
    assert {slug for slug in slugs if slug not in text_of("docs/http.md")} == set()


def test_make_targets_that_are_named_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", text_of("Makefile"), re.MULTILINE))
    named = {name for page in OURS for name in re.findall(r"`make ([a-z-]+)`", text_of(page))}
    assert named <= targets


@pytest.mark.parametrize("dead", [False, True])
def test_the_site_builds_unless_a_link_is_dead(tmp_path: Path, dead: bool) -> None:
    for name in ("docs", "bench", "deploy"):
        shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for page in [*REPOSITORY.glob("*.md"), REPOSITORY / "mkdocs.yml"]:
        shutil.copy(page, tmp_path)
    if dead:
        (tmp_path / "docs" / "glossary.md").open("a").write("\n[nowhere](nowhere.md)\n")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict"],
        cwd=tmp_path,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (built.returncode != 0) == dead, built.stderr
    assert ("nowhere.md" in built.stderr) == dead
