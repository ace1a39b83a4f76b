"""Whatever a process says of itself is in the table of events: no other way to a log is taken."""

import ast
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_type_hints

from pipeline.telemetry.__main__ import document
from pipeline.telemetry.event import Event
from tests.conftest import REPOSITORY

ROOMS = ("pipeline", "tasks", "preprocess", "scoring", "postprocess", "training")
WRITES_ITSELF = ("pipeline/telemetry/", "pipeline/cli/")
"""The adapters, and commands that answer a person."""
PRINTS = {
    "tasks/publish.py": "the command `scoreline publish`",
    "training/credit_default.py": "the command `scoreline train-demo`",
    "training/relevance_minilm.py": "the command `scoreline import-minilm`",
}
MODULES = {"logging", "structlog"}


def sources() -> list[Path]:
    return [path for room in ROOMS for path in sorted((REPOSITORY / room).rglob("*.py"))]


def sayings(tree: ast.AST) -> Iterator[str]:
    """What in a module writes to a log or a standard stream, or could."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (f"import {alias.name}" for alias in node.names if alias.name.split(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            yield f"from {node.module} import"
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in ("sys.stderr", "sys.stdout"):
            yield ast.unparse(node)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "print":
            yield "print"


def test_nothing_is_said_but_by_events() -> None:
    names = {str(path.relative_to(REPOSITORY)): path for path in sources()}
    checked = {name: path for name, path in names.items() if not name.startswith(WRITES_ITSELF) and name not in PRINTS}
    found = {name: list(sayings(ast.parse(path.read_text()))) for name, path in checked.items()}
    assert {name: said for name, said in found.items() if said} == {}
    assert len(checked) > 100


def test_the_lint_sees_what_it_looks_for() -> None:
    bad = "import logging\nfrom structlog import get_logger\nprint(1)\nconsole.print(2)\nx = sys.stderr\n"
    found = set(sayings(ast.parse(bad)))
    assert found == {"import logging", "from structlog import", "print", "sys.stderr"}


def test_every_event_is_emitted_somewhere() -> None:
    text = "".join(path.read_text() for path in sources() if "telemetry/events" not in str(path))
    table = document()
    made_by_the_formatter = {"library_message"}
    for name, kind in Event.TABLE.items():
        assert re.search(rf"\b{kind.__name__}\b", text) or name in made_by_the_formatter, f"nobody emits {name}"
        assert f"| `{name}` |" in table


def test_the_document_is_made_from_the_table() -> None:
    path = REPOSITORY / "docs" / "events.md"
    assert path.read_text() == document(), f"run: python -m pipeline.telemetry > {path.relative_to(REPOSITORY)}"


def test_every_field_says_what_it_means() -> None:
    document()
    for kind in Event.TABLE.values():
        hints = get_type_hints(kind, include_extras=True)
        assert kind.__doc__, kind.name
        for field in dataclasses.fields(kind):  # type: ignore[arg-type]
            assert hints[field.name].__metadata__, f"{kind.name}.{field.name}"
