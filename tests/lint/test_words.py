"""Words that stand for nothing here because the field has a term: no name that code defines is one of them.

The terms are in ``docs/glossary.md``.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.ledger.scripts import SCRIPTS
from pipeline.settings import REPOSITORY, Settings

BANNED = {
    "parcel", "parcels", "receipt", "linger", "lingers", "stay", "stay_s", "job_s", "pass_on", "lean", "persistence",
    "endings", "finishing", "offering", "observe", "key_rate", "carry", "ties", "standing", "revive", "fan", "trim",
    "front", "tell", "anew", "lately", "mended", "guilty", "strike", "parts_of",
}  # fmt: skip
OF_SCRIPTS = BANNED | {"beat", "fill", "lead", "finish"}
"""These are verbs elsewhere; as the name of a script each said too little."""
PACKAGES = ("pipeline", "preprocess", "scoring", "postprocess", "tasks", "training", "scoreline", "bench", "chaos")


def defined(tree: ast.AST) -> Iterator[str]:
    """The names of functions, classes, arguments and attributes that a module defines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.id if isinstance(node, ast.Name) else node.attr


def files() -> Iterator[Path]:
    for package in PACKAGES:
        yield from (REPOSITORY / package).rglob("*.py")


def test_no_name_is_a_banned_word() -> None:
    found = {
        f"{file.relative_to(REPOSITORY)}: {name}"
        for file in files()
        for name in (file.stem, *defined(ast.parse(file.read_text())))
        if name.strip("_").lower() in BANNED
    }
    assert found == set()


def test_no_script_and_no_setting_is_a_banned_word() -> None:
    assert OF_SCRIPTS.isdisjoint(SCRIPTS)
    assert BANNED.isdisjoint(Settings.model_fields)


def test_no_function_of_a_script_is_a_banned_word() -> None:
    lua = (REPOSITORY / "pipeline" / "ledger" / "lua").rglob("*.lua")
    names = {name for file in lua for name in re.findall(r"(?:function|local) (\w+)", file.read_text())}
    assert names & BANNED == set()
